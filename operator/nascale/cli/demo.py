"""``nascale demo``: from nothing to a searched network, with live progress."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import yaml
from rich.console import Console
from rich.live import Live

from nascale.api.architecture_search import ArchitectureSearch
from nascale.api.names import LABEL_SEARCH
from nascale.api.trial import Trial
from nascale.cli import demo_cluster, search_view
from nascale.cli.demo_cluster import DemoCluster
from nascale.cli.kubectl import Kubectl, KubectlError
from nascale.local.errors import LocalError
from nascale.local.operator_process import source_directory

NAMESPACE: Final = "nascale-demo"
EXAMPLE: Final = "examples/01-architecture-search.yaml"
LOOK_SECONDS: Final = 1.0
QUIET_LINE_SECONDS: Final = 10.0
"""How often a line is printed where the output is no terminal."""


def demo(
    *,
    cluster: Annotated[
        str, typer.Option(help="embedded, or current: the cluster of your KUBECONFIG.")
    ] = "embedded",
    example: Annotated[
        Path | None, typer.Option(help=f"The search to run. [default: {EXAMPLE}]", show_default=False)
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
    """Search a network architecture on real data with measured latency, and show the front."""
    console = Console()
    try:
        manifest = _search_manifest(example)
        with _cluster(cluster, prometheus_url, trainer_image, console) as found:
            search = _run(found.kubectl, manifest, console, timeout_minutes * 60.0)
            _show_end(found, search, console)
    except (LocalError, KubectlError, TimeoutError, ValueError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True, markup=False)
        raise typer.Exit(1) from error
    if not any(c.type == "Succeeded" and c.status == "True" for c in search.status.conditions):
        raise typer.Exit(1)


def _search_manifest(example: Path | None) -> dict[str, Any]:
    path = example or source_directory() / EXAMPLE
    manifest = yaml.safe_load(path.read_text())
    if not isinstance(manifest, dict) or manifest.get("kind") != "ArchitectureSearch":
        raise ValueError(f"{path}: kind must be ArchitectureSearch")
    manifest["metadata"]["namespace"] = NAMESPACE
    return manifest


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


def _run(
    kubectl: Kubectl, manifest: dict[str, Any], console: Console, timeout_seconds: float
) -> ArchitectureSearch:
    name = manifest["metadata"]["name"]
    kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    # A search of an earlier demo would be shown as it ended; this one is to start anew.
    kubectl.run(
        "delete", "nas", name, f"--namespace={NAMESPACE}", "--ignore-not-found", "--cascade=foreground"
    )
    kubectl.apply(manifest)
    console.print(f"applied ArchitectureSearch {NAMESPACE}/{name}\n", markup=False)
    deadline = time.monotonic() + timeout_seconds
    if console.is_terminal and os.environ.get("TERM") != "dumb":
        return _follow_live(kubectl, name, console, deadline)
    return _follow_quietly(kubectl, name, console, deadline)


def _observe(kubectl: Kubectl, name: str, deadline: float) -> tuple[ArchitectureSearch, list[Trial]]:
    if time.monotonic() > deadline:
        raise TimeoutError(
            f"search {name} has not ended in time; it goes on, see kubectl get nas -n {NAMESPACE}"
        )
    search = ArchitectureSearch.model_validate(kubectl.get("nas", name, f"--namespace={NAMESPACE}"))
    trials = kubectl.get("trials", f"--namespace={NAMESPACE}", f"--selector={LABEL_SEARCH}={name}")
    return search, [Trial.model_validate(item) for item in trials["items"]]


def _follow_live(kubectl: Kubectl, name: str, console: Console, deadline: float) -> ArchitectureSearch:
    with Live(console=console, auto_refresh=False) as screen:
        while True:
            search, trials = _observe(kubectl, name, deadline)
            screen.update(search_view.live(search, trials, datetime.now(UTC)), refresh=True)
            if search_view.ended(search):
                return search
            time.sleep(LOOK_SECONDS)


def _follow_quietly(kubectl: Kubectl, name: str, console: Console, deadline: float) -> ArchitectureSearch:
    printed = 0.0
    while True:
        search, trials = _observe(kubectl, name, deadline)
        if search_view.ended(search):
            console.print(search_view.live(search, trials, datetime.now(UTC)))
            return search
        if time.monotonic() - printed >= QUIET_LINE_SECONDS:
            console.print(search_view.one_line(search, datetime.now(UTC)), markup=False, soft_wrap=True)
            printed = time.monotonic()
        time.sleep(LOOK_SECONDS)


def _show_end(found: DemoCluster, search: ArchitectureSearch, console: Console) -> None:
    console.print()
    console.print(search_view.result(search))
    name, namespace = search.metadata.name, f"-n {NAMESPACE}"
    steps = [
        (f"kubectl get trials {namespace}", "every measurement"),
        (f"kubectl describe nas {name} {namespace}", "what happened and why"),
        (
            f"kubectl get nas {name} {namespace} -o jsonpath='{{.status.baseNetwork.architecture}}'",
            "the base network as JSON",
        ),
    ]
    console.print("\nGo on with kubectl:", style="bold")
    for command, what in (*found.next_steps[:1], *steps, *found.next_steps[1:]):
        console.print(f"  {command}    # {what}", markup=False, highlight=False, soft_wrap=True)
    if found.prometheus_url:
        query = f"{found.prometheus_url}/api/v1/query?query=nascale_trial_metric"
        console.print(f"\nPrometheus: {found.prometheus_url} (try {query})", markup=False, soft_wrap=True)
