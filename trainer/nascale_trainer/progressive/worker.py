"""One training process, started by the launcher: ``python -m nascale_trainer.progressive.worker``.

Exit codes: those of ``processes``; 0 when the generation has ended and the report says how.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nascale.contract import environment
from nascale.contract.errors import ContractError
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.run_report import RunOutcome, RunReport
from nascale_trainer.allocation import keep_freed_memory
from nascale_trainer.postponed import postpone
from nascale_trainer.progressive import processes
from nascale_trainer.progressive.container import load_run_order, report_unusable
from nascale_trainer.progressive.desired_file import DesiredFile
from nascale_trainer.progressive.generation_end import record_end, recorded_end
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_folder import RunFolder, newest_manifest
from nascale_trainer.sdk import write_report
from nascale_trainer.stop_request import StopRequest

if TYPE_CHECKING:  # torch reads its variables when it is imported: not before the stage's are set
    import torch

    from nascale_trainer.progressive.ranks import Ranks
    from nascale_trainer.progressive.run_end import RunEnd
    from nascale_trainer.progressive.task import TrainingTask

TaskFactory = Callable[[RunOrder, "torch.device"], "TrainingTask"]

log = logging.getLogger("nascale_trainer")


def main(make_task: TaskFactory, environ: MutableMapping[str, str] | None = None) -> int:
    """Train this process's part of a generation; return the exit code.

    Args:
        make_task: Brings model, data and loss; called once.
        environ: The environment; ``None`` means that of the process.
    """
    environ = os.environ if environ is None else environ
    processes.end_with_launcher(environ)
    stop = StopRequest()
    stop.install()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        order = load_run_order(environ)
    except ContractError as error:
        log.error("%s", error)  # noqa: TRY400  # the message says all, a trace would hide it
        report_unusable(str(error), environ)
        return processes.EXIT_UNUSABLE_ORDER
    if processes.STANDBY in environ:
        _import_all()  # while the processes before this one still train
        if not processes.wait_for_start(environ):
            return 0
    stage = present_stage(order, environ)
    wanted = processes.stage_environment(stage.hardware, order.processes_per_worker, environ)
    if not processes.adopt(wanted, environ):
        log.info("this process has waited for another stage")
        return processes.EXIT_RESTART
    return _train(order, make_task, environ, stop)


def present_stage(order: RunOrder, environ: Mapping[str, str]) -> StageOrder:
    """Return the stage that this process will begin with, as far as a look at the run's folder tells."""
    directory = environ.get(environment.RUN_DIRECTORY)
    manifest = newest_manifest(RunFolder(Path(directory)), order) if directory else None
    if manifest is None:
        return order.stages[0]
    newer = (order.generation, order.revision) > (manifest.generation, manifest.revision)
    stages = order.stages if newer and len(order.stages) > manifest.place else manifest.stages
    return stages[manifest.place]


def _train(
    order: RunOrder, make_task: TaskFactory, environ: MutableMapping[str, str], stop: StopRequest
) -> int:
    from nascale_trainer.progressive.group import form_ranks, watching_peers  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.ranks import PeerLost  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.rendezvous import Place  # noqa: PLC0415  # see above

    ended = recorded_end(_folder(environ), order)
    if ended is not None:
        log.info("generation %d has ended before this process came: %s", order.generation, ended.outcome)
        _report(ended, Place.of(order, environ).rank, environ)
        return 0
    ranks: Ranks | None = None
    alone = order.workers * order.processes_per_worker == 1
    try:
        with nullcontext() if alone else watching_peers():
            ranks = form_ranks(order, environ)
            return _train_with(ranks, order, make_task, environ, stop)
    except PeerLost as error:
        log.warning("another process is gone: %s", error)
        return processes.EXIT_PEER_LOST
    finally:
        if ranks is not None:
            ranks.close()


def _train_with(
    ranks: Ranks,
    order: RunOrder,
    make_task: TaskFactory,
    environ: MutableMapping[str, str],
    stop: StopRequest,
) -> int:
    from nascale_trainer.progressive.observation import Silent  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.run_metrics import RunMetrics  # noqa: PLC0415  # see above

    keep_freed_memory(environ)
    threads = _set_threads(environ)
    metrics = RunMetrics(order, threads=threads) if ranks.rank == 0 else None
    end = _run(ranks, order, make_task, observer=metrics or Silent(), environ=environ, stop=stop)
    if end.report is not None:
        _report(end.report, ranks.rank, environ)
        if ranks.rank == 0:
            record_end(_folder(environ), order, end.report)
        # Nobody is gone before rank 0 has told of the end: else it would have nobody to do it again with.
        ranks.barrier()
    if metrics is not None:
        linger = linger_seconds(order, end)
        scraped = metrics.close(linger)
        if linger and not scraped:
            log.warning("the final values were not scraped; the report holds them")
    return exit_code(end)


def _run(
    ranks: Ranks,
    order: RunOrder,
    make_task: TaskFactory,
    *,
    observer: Any,
    environ: MutableMapping[str, str],
    stop: StopRequest,
) -> RunEnd:
    from nascale_trainer.progressive.loop import TrainingLoop  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.run_end import EndKind, RunEnd, refused  # noqa: PLC0415  # see above
    from nascale_trainer.progressive.run_start import together  # noqa: PLC0415  # see above

    try:
        directory = _run_directory(environ)
        task = together(ranks, lambda: make_task(order, ranks.device))
    except CannotTrain as refusal:
        log.error("refused: %s: %s", refusal.reason, refusal)  # noqa: TRY400  # the message says all
        return RunEnd(EndKind.REPORTED, refused(order, refusal, ranks.device))
    started = environ.get(processes.STARTED_AT)

    def announce(stage: StageOrder) -> None:
        variables = processes.stage_environment(stage.hardware, order.processes_per_worker, inherited)
        processes.announce_restart(variables, environ)

    # What the launcher itself has: this process's own OMP_NUM_THREADS is the present stage's.
    inherited = {name: value for name, value in environ.items() if name != processes.OMP_THREADS}
    loop = TrainingLoop(
        order,
        task,
        ranks,
        RunFolder(directory),
        observer,
        desired=DesiredFile.from_environment(environ).newest,
        stop=stop,
        announce=announce,
        started_at=float(started) if started else None,
    )
    return loop.run()


def _run_directory(environ: Mapping[str, str]) -> Path:
    directory = environ.get(environment.RUN_DIRECTORY)
    if not directory:
        raise CannotTrain("VolumeUnusable", f"volume: {environment.RUN_DIRECTORY} must be set")
    return Path(directory)


def linger_seconds(order: RunOrder, end: RunEnd) -> float:
    """Return how long the last figures may wait to be scraped: those of a run's end, after which none come.

    At every other end the next process or generation goes on with the same counts: there a wait would be
    downtime. What was refused has no figures.
    """
    lasting = end.report is not None and end.report.outcome in (RunOutcome.COMPLETED, RunOutcome.FAILED)
    return order.exporter.max_linger_seconds if lasting and order.exporter.wait_for else 0.0


def exit_code(end: RunEnd) -> int:
    """Return the exit code that tells the launcher what follows."""
    from nascale_trainer.progressive.run_end import EndKind  # noqa: PLC0415  # see above

    if end.kind is EndKind.RESTART:
        return processes.EXIT_RESTART
    if end.kind is EndKind.STOPPED:
        return processes.EXIT_TERMINATED if end.told else processes.EXIT_PEER_LOST
    return 0


def _folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get(environment.RUN_DIRECTORY) or os.devnull)


def _report(report: RunReport, rank: int, environ: Mapping[str, str]) -> None:
    """Write a pod's report: its first process does."""
    if environ.get(processes.LOCAL_RANK, "0") == "0":
        write_report(_own_part(report, rank).encode(), environ)


def _own_part(report: RunReport, rank: int) -> RunReport:
    """Return the report as a rank gives it: the history is rank 0's alone."""
    return report if rank == 0 else report.model_copy(update={"stages": (), "metrics": {}})


def _set_threads(environ: Mapping[str, str]) -> int:
    """Compute with the stage's threads; return their number.

    A user's script that imports torch at its top has done so before the stage's variables were set.
    """
    import torch  # noqa: PLC0415  # see above

    torch.set_num_threads(int(environ[processes.OMP_THREADS]))
    return torch.get_num_threads()


def _import_all() -> None:
    postpone()
    from nascale_trainer.progressive import group, image_task, loop  # noqa: F401, PLC0415  # for their time


def _image_task(order: RunOrder, device: torch.device) -> TrainingTask:
    postpone()
    from nascale_trainer.progressive.image_task import ImageTask  # noqa: PLC0415  # see above

    return ImageTask(order, device=device)


if __name__ == "__main__":
    processes.leave(main(_image_task))
