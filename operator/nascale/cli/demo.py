"""``nascale demo``: from nothing to a searched network, its family and a trained member, with progress."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console
from rich.live import Live

from nascale.cli import demo_cluster
from nascale.cli.demo_cluster import DemoCluster
from nascale.cli.kubectl import Kubectl, KubectlError
from nascale.cli.sight import RESOURCES, Sight, look
from nascale.local.errors import LocalError
from nascale.local.operator_process import source_directory

NAMESPACE: Final = "nascale-demo"
EXAMPLES: Final = (
    "examples/01-architecture-search.yaml",
    "examples/03-scaling-sweep.yaml",
    "examples/05-progressive-training.yaml",
)
"""A search, a sweep that scales what it found, and a training of the family's largest member."""
LOOK_SECONDS: Final = 1.0
QUIET_LINE_SECONDS: Final = 10.0
"""How often a line is printed where the output is no terminal."""


@dataclass(frozen=True)
class Example:
    """A file of manifests.

    Attributes:
        main: The search, the sweep or the training.
        others: What it needs beside it, a volume claim for example.
    """

    main: dict[str, Any]
    others: tuple[dict[str, Any], ...]

    @property
    def kind(self) -> str:
        """Kind of the main object."""
        return str(self.main["kind"])

    @property
    def name(self) -> str:
        """Name of the main object."""
        return str(self.main["metadata"]["name"])


def demo(
    *,
    cluster: Annotated[
        str, typer.Option(help="embedded, or current: the cluster of your KUBECONFIG.")
    ] = "embedded",
    example: Annotated[
        Path | None,
        typer.Option(
            help=f"One search, sweep or training to run alone, instead of {', then '.join(EXAMPLES)}.",
            show_default=False,
        ),
    ] = None,
    prometheus_url: Annotated[
        str | None,
        typer.Option(help="With --cluster current: where this machine reaches that cluster's Prometheus."),
    ] = None,
    trainer_image: Annotated[
        str | None, typer.Option(help="With --cluster current: the trainer's image.")
    ] = None,
    timeout_minutes: Annotated[int, typer.Option(min=1, max=1440, help="Give up after so long.")] = 60,
) -> None:
    """Search a network on real data with measured latency, scale it into a family, train one in stages."""
    console = Console()
    try:
        examples = read_examples(example)
        with _cluster(cluster, prometheus_url, trainer_image, console) as found:
            succeeded = _run_all(found, examples, console, timeout_minutes * 60.0)
    except (LocalError, KubectlError, TimeoutError, ValueError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    if not succeeded:
        raise typer.Exit(1)


def read_examples(path: Path | None) -> tuple[Example, ...]:
    """Read what is to be run, for the demo's namespace: one file, or by default one of each kind.

    Raises:
        ValueError: a file holds no search, sweep or training, or several.
        OSError: a file can't be read.
    """
    if path is not None:
        return (_read(path),)
    return tuple(_read(source_directory() / name) for name in EXAMPLES)


def _read(path: Path) -> Example:
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    main = [each for each in documents if isinstance(each, dict) and each.get("kind") in RESOURCES]
    if len(main) != 1:
        raise ValueError(f"{path}: kind must be {' or '.join(RESOURCES)}, in one document of the file")
    for document in documents:
        document["metadata"]["namespace"] = NAMESPACE
    return Example(main[0], tuple(each for each in documents if each is not main[0]))


@contextlib.contextmanager
def _cluster(
    which: str, prometheus_url: str | None, trainer_image: str | None, console: Console
) -> Iterator[DemoCluster]:
    def report(line: str) -> None:
        console.print(line, style="dim", markup=False, highlight=False)

    if which == "embedded":
        yield demo_cluster.embedded(report)
    elif which == "current":
        with demo_cluster.current(prometheus_url, trainer_image, report) as found:
            yield found
    else:
        raise ValueError(f"--cluster: must be embedded or current, not {which!r}")


def _run_all(
    found: DemoCluster, examples: Sequence[Example], console: Console, timeout_seconds: float
) -> bool:
    """Run one example after the other while they succeed; say whether all have."""
    kubectl, deadline = found.kubectl, time.monotonic() + timeout_seconds
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    # What is left of an earlier demo would be shown as it ended; this one is to start anew.
    for example in reversed(examples):
        where = (example.name, f"--namespace={NAMESPACE}", "--ignore-not-found", "--cascade=foreground")
        kubectl.run("delete", RESOURCES[example.kind], *where)
    sights: list[Sight] = []
    for example in examples:
        kubectl.apply(*example.others, example.main)
        console.print(f"applied {example.kind} {NAMESPACE}/{example.name}\n", markup=False)
        sights.append(_follow(kubectl, example, console, deadline))
        console.print()
        console.print(sights[-1].result())
        console.print()
        if not sights[-1].succeeded:
            break
    _show_next_steps(found, sights, console)
    return all(sight.succeeded for sight in sights)


def _follow(kubectl: Kubectl, example: Example, console: Console, deadline: float) -> Sight:
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        return _follow_live(kubectl, example, console, deadline)
    return _follow_quietly(kubectl, example, console, deadline)


def _observe(kubectl: Kubectl, example: Example, deadline: float) -> Sight:
    if time.monotonic() > deadline:
        resource = RESOURCES[example.kind]
        raise TimeoutError(
            f"{example.kind} {example.name} has not ended in time; it goes on, see kubectl get {resource} "
            f"-n {NAMESPACE}"
        )
    return look(kubectl, example.kind, example.name, NAMESPACE)


def _follow_live(kubectl: Kubectl, example: Example, console: Console, deadline: float) -> Sight:
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            sight = _observe(kubectl, example, deadline)
            screen.update(sight.live(datetime.now(UTC)), refresh=True)
            if sight.ended:
                return sight
            time.sleep(LOOK_SECONDS)


def _follow_quietly(kubectl: Kubectl, example: Example, console: Console, deadline: float) -> Sight:
    printed = 0.0
    while True:
        sight = _observe(kubectl, example, deadline)
        if sight.ended:
            console.print(sight.live(datetime.now(UTC)))
            return sight
        if time.monotonic() - printed >= QUIET_LINE_SECONDS:
            console.print(sight.one_line(datetime.now(UTC)), markup=False, soft_wrap=True)
            printed = time.monotonic()
        time.sleep(LOOK_SECONDS)


def _show_next_steps(found: DemoCluster, sights: Sequence[Sight], console: Console) -> None:
    steps = [step for sight in sights for step in sight.next_steps()]
    console.print("Go on with kubectl:", style="bold")
    for command, what in (*found.next_steps[:1], *steps, *found.next_steps[1:]):
        console.print(f"  {command}    # {what}", markup=False, highlight=False, soft_wrap=True)
    if found.prometheus_url:
        query = f"{found.prometheus_url}/api/v1/query?query=nascale_trial_metric"
        console.print(f"\nPrometheus: {found.prometheus_url} (try {query})", markup=False, soft_wrap=True)
