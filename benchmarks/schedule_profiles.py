"""Profiles of generated schedules, in this process: the operator's design, the trainer's measurements."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from nascale.contract.metric_names import PEAK_MEMORY, TRAINING_THROUGHPUT
from nascale.contract.profile_order import (
    EPOCH_SAMPLES,
    LOSS_DEVIATION,
    SETTLE,
    START,
    STEP_P50,
    STEP_SPREAD,
    ProfileCandidate,
    ProfileOrder,
)
from nascale.contract.report import CandidateReport, Outcome
from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.work_order import MeasurementOrder
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.problem import Combination, GenerationProblem, ProfileRecord
from nascale.progressive.generation.profile import Proposal, design
from nascale.search.history import TrialState
from nascale_trainer.progressive.profiling import profile
from rows import RESULTS
from schedule_runs import IDENTITY, Run, Setup, device_name, say

MEASUREMENTS: Final = {
    "cpu": MeasurementOrder(min_calls=20, min_seconds=4, max_spread_ratio=0.25),
    "cuda": MeasurementOrder(min_calls=20, min_seconds=1, max_spread_ratio=0.25),
}
"""By type of device. Short, as a profile must pay within a training of minutes. On a host whose speed goes up
and down by a tenth within seconds, windows that agree are luck: what counts is measured again."""
MEASURED: Final = "measured"
"""Stage of a measurement."""
GUARD_STEPS: Final = 16
MOST_ATTEMPTS: Final = 3
"""Of a run, until nobody disturbs it."""
STATES: Final = {
    Outcome.SUCCEEDED: TrialState.SUCCEEDED,
    Outcome.INFEASIBLE: TrialState.INFEASIBLE,
}


@dataclass(frozen=True)
class Profile:
    """A profile that has ended.

    Attributes:
        records: Its measurements.
        seconds: What it took, the operator's own thinking included.
        thinking: Share of that in which nothing was measured, seconds.
        grid_size: Combinations that the ranges hold.
        reason: Why nothing more was measured.
    """

    records: tuple[ProfileRecord, ...]
    seconds: float
    thinking: float
    grid_size: int
    reason: str


def measure_all(
    setup: Setup,
    problem: GenerationProblem,
    proposals: Sequence[Proposal],
    *,
    first: int = 0,
    measurement: MeasurementOrder | None = None,
) -> list[ProfileRecord]:
    """Measure combinations, and those that failed, be it from others' use of the device, once more.

    Args:
        setup: Model, data, device.
        problem: What a schedule is asked for.
        proposals: What to measure.
        first: Number of the first of them.
        measurement: How long each; ``None``: as is usual on the device.
    """
    measurement = measurement or MEASUREMENTS[setup.device.type]
    numbers = range(first, first + len(proposals))
    found = _measure_in_turn(setup, problem, proposals, numbers, measurement)
    failed = [place for place, own in enumerate(found) if own.state is TrialState.FAILED]
    if failed:
        again = [proposals[place] for place in failed]
        say(f"profile: {len(again)} measured again: {found[failed[0]].reason}")
        repeated = _measure_in_turn(setup, problem, again, [numbers[place] for place in failed], measurement)
        for place, own in zip(failed, repeated, strict=True):
            found[place] = own
    return found


def _measure_in_turn(
    setup: Setup,
    problem: GenerationProblem,
    proposals: Sequence[Proposal],
    numbers: Sequence[int],
    measurement: MeasurementOrder,
) -> list[ProfileRecord]:
    """Measure one after the other, as one pod would."""
    order = ProfileOrder(
        run=IDENTITY,
        candidates=tuple(
            ProfileCandidate(
                trial=trial_name(number),
                index=number,
                stages=(_stage(own.combination),),
                guarded=own.guarded,
            )
            for number, own in zip(numbers, proposals, strict=True)
        ),
        metrics=(STEP_P50, SETTLE),
        architecture=setup.architecture,
        parameters=dict(setup.parameters),
        data=setup.data,
        optimizer=setup.optimizer,
        measurement=measurement,
        reference=problem.base,
        reference_steps=GUARD_STEPS,
    )
    # As if this process had just started: what it did before is no part of a training.
    report = profile(
        order,
        setup.make_task,
        observer=setup.observer,
        environ=setup.environ,
        device=setup.device,
        started_at=time.time(),
    )
    return [_record(own.combination, result) for own, result in zip(proposals, report.results, strict=True)]


def trial_name(number: int) -> str:
    """Name the measurement of this number."""
    return f"p{number}"


def _stage(own: Combination) -> StageOrder:
    return StageOrder(name=MEASURED, model=own.model, hardware=own.hardware)


def _record(own: Combination, result: CandidateReport) -> ProfileRecord:
    values = result.metrics
    epoch, rate = values.get(EPOCH_SAMPLES), values.get(TRAINING_THROUGHPUT)
    return ProfileRecord(
        own.model,
        own.hardware,
        STATES.get(result.outcome, TrialState.FAILED),
        step_seconds=own.model.global_batch / rate if rate else 0.0,
        step_spread=values.get(STEP_SPREAD),
        settle_seconds=values.get(SETTLE),
        start_seconds=values.get(START),
        peak_memory=values.get(PEAK_MEMORY),
        epoch_samples=None if epoch is None else round(epoch),
        loss_deviation=values.get(LOSS_DEVIATION),
        reason=result.message or "",
    )


def run_profile(
    setup: Setup,
    problem: GenerationProblem,
    *,
    measurement: MeasurementOrder | None = None,
    again: float | None = None,
) -> Profile:
    """Measure what the design asks for, until it asks for nothing more.

    Args:
        setup: Model, data, device.
        problem: What a schedule is asked for.
        measurement: How long each; ``None``: as is usual on the device.
        again: Share of what the constant recipe is predicted to take, after which nothing is measured again;
            ``None``: there is no such limit.
    """
    records: list[ProfileRecord] = []
    begin, measuring = time.perf_counter(), 0.0
    while True:
        pays = again is None or not records or measuring <= again * _recipe_seconds(problem, records)
        found = design(problem, records, again=pays)
        if found.finished or not found.proposals:
            seconds = time.perf_counter() - begin
            return Profile(tuple(records), seconds, seconds - measuring, found.grid_size, found.reason)
        started = time.perf_counter()
        records += measure_all(
            setup,
            problem,
            found.proposals,
            first=len(records),
            measurement=measurement,
        )
        measuring += time.perf_counter() - started
        say(f"profile: {len(records)} of {found.grid_size} combinations, {found.reason}")


def _recipe_seconds(problem: GenerationProblem, records: Sequence[ProfileRecord]) -> float:
    """Return what the constant recipe is predicted to take."""
    return Predictor(problem, records).predict((problem.base,)).seconds


def described(stages: Iterable[StageOrder]) -> str:
    """Write a schedule for people."""
    parts = []
    for stage in stages:
        model, hardware = stage.model, stage.hardware
        own = "".join(f" {name} {value}" for name, value in sorted(model.parameters.items()))
        split = f" in {hardware.accumulation} parts" if hardware.accumulation > 1 else ""
        parts.append(
            f"{stage.length or 'rest'}: {model.resolution or ''}{own} depth {model.depth:g} "
            f"batch {model.global_batch}{split} {hardware.precision} {hardware.memory_format}"
        )
    return "; ".join(parts)


def _ranges_of(asked: GenerationProblem) -> str:
    """Write what the profile of a problem depends on, beside network and data."""
    hardware = [own.to_json() for own in asked.hardware]
    return (
        f"{asked.base.to_json()} {asked.length} {asked.growing} {asked.batches} {hardware} {asked.max_trials}"
    )


def _described_setup(setup: Setup) -> str:
    network = setup.architecture.to_json() if setup.architecture else dict(setup.parameters)
    return f"{network} {setup.data} {setup.optimizer.to_json()} {device_name(setup.device)}"


def profile_key(setup: Setup, asked: GenerationProblem) -> str:
    """Return a short name for all that a profile depends on."""
    measurement = MEASUREMENTS[setup.device.type]
    return digest(f"{_described_setup(setup)} {_ranges_of(asked)} {measurement}")


class KeptRuns:
    """Profiles and runs so far, in a file that grows by a line for each. Arms of equal schedules share a run.

    Args:
        name: Of the benchmark.
        setup: Model, data, device.
        asked: What a schedule is asked for; runs and profiles of others are left alone.
    """

    def __init__(self, name: str, setup: Setup, asked: GenerationProblem) -> None:
        self._path = RESULTS / f"{name}.runs.jsonl"
        self._key, self._profile_key = digest(_described_setup(setup)), profile_key(setup, asked)
        self.found: dict[tuple[str, int], Run] = {}
        """By arm and seed, those that were asked for."""
        self._kept: dict[str, Run] = {}
        self._profiles: dict[int, Profile] = {}
        for document in kept_lines(self._path):
            if "profile" in document and document["key"] == self._profile_key:
                self._profiles[document["seed"]] = profile_of(document["profile"])
            elif "run" in document and document["key"] == self._key:
                run = run_of(document["run"])
                if not run.disturbed:
                    self._kept[document["schedule"]] = run

    def profile(self, seed: int, make: Callable[[], Profile]) -> Profile:
        """Return a seed's profile, made now where it is not there."""
        if seed not in self._profiles:
            own = self._profiles[seed] = make()
            self._add(self._profile_key, {"seed": seed, "profile": written_profile(own)})
        return self._profiles[seed]

    def get(
        self, arm: str, stages: Sequence[StageOrder], samples: int, seed: int, make: Callable[[], Run]
    ) -> Run:
        """Return a run, made now where it is not there, and again where others have disturbed it."""
        schedule = f"seed {seed}, {samples}sp: {[stage.to_json() for stage in stages]}"
        place = digest(schedule)
        for _ in range(MOST_ATTEMPTS):
            if place in self._kept:
                break
            own = make()
            self._add(self._key, {"arm": arm, "seed": seed, "schedule": place, "run": asdict(own)})
            say(f"seed {seed}, {arm}: {own.quality:.4f} in {own.seconds:.1f} s")
            if not own.disturbed:
                self._kept[place] = own
        if place not in self._kept:
            raise SystemExit(
                f"seed {seed}, {arm}: other programs have disturbed {MOST_ATTEMPTS} runs; the same command "
                "goes on from here on a quieter machine"
            )
        self.found[arm, seed] = self._kept[place]
        return self.found[arm, seed]

    def _add(self, key: str, document: dict[str, Any]) -> None:
        append(self._path, {"key": key, **document})


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of lines; where there is none, nothing is kept."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def append(path: Path, document: dict[str, Any]) -> None:
    """Add a line to a file of lines."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")


def digest(text: str) -> str:
    """Return a short name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(own: ProfileRecord) -> dict[str, Any]:
    """Return a measurement as plain values, without what is as usual."""
    plain = {name: value for name, value in asdict(own).items() if value is not None}
    settings = {
        "model": own.model.model_dump(mode="json", exclude_defaults=True),
        "hardware": own.hardware.model_dump(mode="json", exclude_defaults=True),
    }
    return plain | settings


def record_of(document: dict[str, Any]) -> ProfileRecord:
    """Read what ``written`` returned."""
    settings = {
        "model": ModelSettings.model_validate(document["model"]),
        "hardware": HardwareSettings.model_validate(document["hardware"]),
        "state": TrialState(document["state"]),
    }
    return ProfileRecord(**document | settings)


def written_profile(own: Profile) -> dict[str, Any]:
    """Return a profile as plain values."""
    return {**asdict(own), "records": [written(record) for record in own.records]}


def profile_of(document: dict[str, Any]) -> Profile:
    """Read what ``written_profile`` returned."""
    records = tuple(record_of(own) for own in document["records"])
    return Profile(**document | {"records": records})


def run_of(document: dict[str, Any]) -> Run:
    """Read a run from its plain values."""
    return Run(**document | {"stages": tuple(tuple(stage) for stage in document["stages"])})
