"""``nascale family``: take a network out of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from nascale.api.scaling_sweep import ScaledMember, ScalingSweep
from nascale.cli.exported_member import write_member
from nascale.cli.kept_weights import weights_of
from nascale.cli.kubectl import Kubectl, KubectlError
from nascale.cli.sweep_view import ended
from nascale.local import binaries
from nascale.local.errors import LocalError
from nascale.local.products import KUBECTL

RESOURCE: Final = "scalingsweeps.nascale.io"

app = typer.Typer(
    name="family", help="The scaled networks that a ScalingSweep has found.", no_args_is_help=True
)


@app.callback()
def family() -> None:
    """The scaled networks that a ScalingSweep has found."""


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The ScalingSweep.", show_default=False)],
    *,
    member: Annotated[str, typer.Option(help="Member of its family.", show_default=False)],
    to: Annotated[Path, typer.Option(help="A new or empty folder.", show_default=False)],
    namespace: Annotated[
        str | None,
        typer.Option(
            "--namespace", "-n", help="Of the sweep; by default that of your kubeconfig.", show_default=False
        ),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Where the volume of spec.checkpoints can be read. Embedded clusters need none.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a member's network, weights and measured values into a folder that needs no nascale."""
    try:
        kubectl = Kubectl(binaries.ensure([KUBECTL], report=_progress)["kubectl"])
        sweep = _sweep(kubectl, name, namespace)
        chosen = _member(sweep, member)
        weights = weights_of(sweep, chosen, checkpoints, kubectl)
        written = write_member(to, sweep, chosen, weights)
    except (LocalError, KubectlError, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for path in written:
        typer.echo(path)
    if weights.path is None:
        typer.echo(f"without weights: {weights.missing}", err=True)
    if not ended(sweep):
        typer.echo(f"sweep {name} has not ended: its members may still change", err=True)


def _sweep(kubectl: Kubectl, name: str, namespace: str | None) -> ScalingSweep:
    where = [] if namespace is None else [f"--namespace={namespace}"]
    return ScalingSweep.model_validate(kubectl.get(RESOURCE, name, *where))


def _member(sweep: ScalingSweep, name: str) -> ScaledMember:
    found = {entry.name: entry for entry in sweep.status.family}
    if not found:
        raise ValueError(
            f"sweep {sweep.metadata.name} has found no member yet: kubectl describe sweep says why"
        )
    if name not in found:
        raise ValueError(f"--member: must be one of {', '.join(found)}, not {name!r}")
    return found[name]


def _progress(line: str) -> None:
    typer.echo(line, err=True)
