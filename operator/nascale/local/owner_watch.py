"""Takes an embedded cluster down when the process that it belongs to has ended, even by SIGKILL.

Run as ``python -m nascale.local.owner_watch NAME ROOT IDENTITY``.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from nascale.local.processes import ProcessIdentity


def command(name: str, root: Path, owner: ProcessIdentity) -> list[str]:
    """Return the command line of the watcher."""
    module = "nascale.local.owner_watch"
    return [sys.executable, "-P", "-m", module, name, str(root), owner.model_dump_json()]


def wait_for_end(owner: ProcessIdentity) -> None:
    """Return when the process has ended; sleeps until then."""
    try:
        descriptor = os.pidfd_open(owner.pid)
    except ProcessLookupError:
        return
    try:
        # Only now is it certain that the pid was not given to another process before the descriptor was open.
        if owner.is_alive():
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll()
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str]) -> None:
    """Wait, then take the cluster down."""
    # Imported here: the cluster's module starts this one.
    from nascale.local.instance import LocalCluster  # noqa: PLC0415

    name, root, owner = arguments
    wait_for_end(ProcessIdentity.model_validate_json(owner))
    LocalCluster(name, root=Path(root)).down()


if __name__ == "__main__":
    main(sys.argv[1:])
