"""``nascale local``: a Kubernetes cluster for development on this machine, without root or Docker."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from nascale.local import binaries as programs
from nascale.local.components import ALL
from nascale.local.errors import LocalError
from nascale.local.instance import LocalCluster
from nascale.local.places import DEFAULT_NAME
from nascale.local.processes import ProcessState
from nascale.local.products import CLUSTER, EXTRAS
from nascale.local.supervision import ProcessStatus

app = typer.Typer(
    name="local",
    help="A Kubernetes cluster for development on this machine, without root and without Docker.",
    no_args_is_help=True,
)
Name = Annotated[str, typer.Option("--name", "-n", help="Which cluster; several can run side by side.")]


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    *,
    operator: Annotated[
        bool | None,
        typer.Option(help="Also run the operator, with the rights that the chart gives it."),
    ] = None,
    operator_env: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting of the operator, as in NASCALE_LOG_LEVEL=debug; may be given twice.",
            show_default=False,
        ),
    ] = None,
    capacity: Annotated[
        str | None,
        typer.Option(
            help="The node's resources, as in cpu=2,memory=8Gi,nvidia.com/gpu=1.", show_default=False
        ),
    ] = None,
    scrape_interval: Annotated[
        float | None,
        typer.Option(help="Seconds between two scrapes by Prometheus, 0.1 to 3600.", show_default=False),
    ] = None,
) -> None:
    """Start the cluster, or repair it: what runs stays, what has died starts again with its data and ports.

    Options that are left out keep their last value.
    """
    begin = time.monotonic()
    with _errors_for_people():
        changes: dict[str, Any] = {
            "operator": operator,
            "operator_environment": None if operator_env is None else _variables(operator_env),
            "capacity": capacity,
            "scrape_seconds": scrape_interval,
        }
        cluster = LocalCluster(name)
        cluster.up({key: value for key, value in changes.items() if value is not None}, report=_progress)
        typer.echo(f"cluster {name} is ready after {time.monotonic() - begin:.1f} s")
        typer.echo(f"  Prometheus  {cluster.prometheus_url}")
        typer.echo(f"  kubectl     export KUBECONFIG={cluster.kubeconfig}")


@app.command()
def down(
    name: Name = DEFAULT_NAME,
    *,
    keep_data: Annotated[
        bool, typer.Option("--keep-data", help="Keep the folder, so that the next up goes on with it.")
    ] = False,
) -> None:
    """Stop the cluster and remove everything that belongs to it."""
    with _errors_for_people():
        cluster = LocalCluster(name)
        if not cluster.directory.exists():
            typer.echo(f"there is no cluster {name!r}")
            return
        cluster.down(keep_data=keep_data, report=_progress)
        kept = f"; its data stays in {cluster.directory}" if keep_data else ""
        typer.echo(f"cluster {name} is down{kept}")


@app.command()
def status(
    name: Name = DEFAULT_NAME,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show each process of the cluster. The exit code is 0 if all run, else 1."""
    with _errors_for_people():
        found = LocalCluster(name).status()
    if as_json:
        typer.echo(json.dumps([_as_document(each) for each in found], indent=2))
    else:
        _print_status(found)
    if any(each.state is not ProcessState.RUNNING for each in found):
        raise typer.Exit(1)


@app.command()
def kubeconfig(name: Name = DEFAULT_NAME) -> None:
    """Print the path of the administrator's kubeconfig: export KUBECONFIG=$(nascale local kubeconfig)."""
    with _errors_for_people():
        cluster = LocalCluster(name)
        cluster.options()  # says so if there is no such cluster
        typer.echo(str(cluster.kubeconfig))


@app.command()
def logs(
    component: Annotated[str, typer.Argument(help=f"One of {', '.join(ALL)}.")],
    name: Name = DEFAULT_NAME,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as the log grows.")] = False,
    lines: Annotated[int, typer.Option("--lines", min=0, help="How many of the last lines.")] = 100,
) -> None:
    """Show the output of one of the cluster's processes."""
    with _errors_for_people():
        if component not in ALL:
            raise LocalError(f"component {component!r} must be one of {', '.join(ALL)}")
        cluster = LocalCluster(name)
        cluster.options()  # says so if there is no such cluster
        path = cluster.layout.log(component)
        if not path.exists():
            raise LocalError(f"{component} has not been started in cluster {name}")
        tail = shutil.which("tail")
        if tail is None:
            raise LocalError(f"tail is not on PATH; the log is {path}")
    follows = ["--follow=name"] if follow else []
    os.execv(tail, [tail, f"--lines={lines}", *follows, str(path)])  # noqa: S606 - no shell is the aim


@app.command()
def binaries(
    *,
    extras: Annotated[
        list[str] | None,
        typer.Option("--with", help=f"Also {' or '.join(sorted(EXTRAS))}; may be given twice."),
    ] = None,
) -> None:
    """Find the cluster's programs, or build those that this machine lacks, and print where they are."""
    unknown = sorted(set(extras or []) - EXTRAS.keys())
    with _errors_for_people():
        if unknown:
            raise LocalError(f"--with {unknown[0]!r} must be one of {', '.join(sorted(EXTRAS))}")
        wanted = [*CLUSTER, *(EXTRAS[extra] for extra in dict.fromkeys(extras or []))]
        found = programs.ensure(wanted, report=_progress)
    for binary in found.details():
        typer.echo(f"{binary.program:<24} {binary.version:<10} {binary.origin:<20} {binary.path}")


@contextlib.contextmanager
def _errors_for_people() -> Iterator[None]:
    """Turn an expected error into a message and the exit code 1."""
    try:
        yield
    except ValidationError as error:
        for detail in error.errors():
            field = ".".join(str(part) for part in detail["loc"])
            own = detail.get("ctx", {}).get("error")  # our validators' messages name the field themselves
            message = own or f"{field}: {detail['msg']}"
            typer.echo(f"error: {message}", err=True)
        raise typer.Exit(1) from error
    except (LocalError, TimeoutError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


def _variables(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if not re.match(r"^[A-Za-z_][A-Za-z0-9_]*=", text):
            raise LocalError(f"--operator-env {text!r} must be NAME=VALUE")
    return dict(text.split("=", 1) for text in texts)


def _progress(line: str) -> None:
    typer.echo(line, err=True)


def _print_status(found: tuple[ProcessStatus, ...]) -> None:
    table = Table("PROCESS", "STATE", "PID", "STARTED", "EXIT", box=None, pad_edge=False)
    for each in found:
        style = "green" if each.state is ProcessState.RUNNING else "red"
        table.add_row(
            each.name,
            f"[{style}]{each.state}[/{style}]",
            str(each.pid or ""),
            f"{each.started.astimezone():%Y-%m-%d %H:%M:%S}" if each.started else "",
            str(each.exit or ""),
        )
    Console().print(table)


def _as_document(status: ProcessStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "state": status.state,
        "pid": status.pid,
        "exit": None if status.exit is None else status.exit.code,
        "started": None if status.started is None else status.started.isoformat(),
        "log": str(status.log),
    }
