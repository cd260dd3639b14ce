"""The command ``nascale``, also ``kubectl nascale``: only the list of its commands."""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from nascale.cli import demo, family, local

app = typer.Typer(
    name="nascale",
    help="Search and scale network architectures on the hardware that they will run on.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(local.app, name="local")
app.add_typer(family.app, name="family")
app.command()(demo.demo)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it with the option's value
    if wanted:
        typer.echo(metadata.version("nascale"))
        raise typer.Exit


@app.callback()
def main(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Search and scale network architectures on the hardware that they will run on."""
