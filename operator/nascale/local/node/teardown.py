"""Removing a node that runs no more: its containers, their temporary files, its folder."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from nascale.local.node.pod_environment import temporary_root
from nascale.local.node.process import KILL_PAUSE_SECONDS, KILL_ROUNDS, kill_round
from nascale.local.node.record import stored_uids
from nascale.local.node.spawner import SHIM_MARK


def remove_everything(state_directory: Path) -> None:
    """Kill every process of every pod that the node keeps, then delete its folders.

    The node itself must have ended: it would start containers again.
    """
    uids = set(stored_uids(state_directory / "pods"))
    for _ in range(KILL_ROUNDS):
        # Shims first: they would only write down ends that nobody reads.
        shims = kill_round(lambda value: value == str(state_directory), SHIM_MARK)
        containers = bool(uids) and kill_round(lambda value: value.split("/", 1)[0] in uids)
        if not shims and not containers:
            break
        time.sleep(KILL_PAUSE_SECONDS)
    shutil.rmtree(temporary_root(state_directory), ignore_errors=True)
    shutil.rmtree(state_directory, ignore_errors=True)
