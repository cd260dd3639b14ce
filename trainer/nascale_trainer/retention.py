"""Whose checkpoints stay when a search has ended: the folders of all other trials are dropped.

The operator has no access to the volume: it starts a pod that runs
``nascale-trainer keep-checkpoints TRIAL ...``.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from nascale.contract import environment

COMMAND: Final = "keep-checkpoints"

log = logging.getLogger(__name__)


def keep_only(root: Path, trials: Collection[str]) -> list[str]:
    """Drop the folder of every trial that is not named; files and links beside them stay.

    Args:
        root: The search's folder, which holds one folder per trial.
        trials: Names of the trials whose folders stay.

    Returns:
        Names of the folders that were dropped, sorted. Nothing where the folder is not there.

    Raises:
        OSError: a folder can't be dropped.
    """
    if not root.is_dir():
        return []
    dropped = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in trials and entry.is_dir() and not entry.is_symlink()
    )
    for name in dropped:
        shutil.rmtree(root / name)
    return dropped


def run(trials: Collection[str], environ: Mapping[str, str] | None = None) -> int:
    """Drop all other trials' folders in ``NASCALE_CHECKPOINT_DIRECTORY``; return the exit code."""
    folder = (os.environ if environ is None else environ).get(environment.CHECKPOINT_DIRECTORY)
    if not folder:
        log.error("environment: %s must be set", environment.CHECKPOINT_DIRECTORY)
        return 2
    dropped = keep_only(Path(folder), trials)
    log.info("dropped %d folders of %s, kept those of %d trials", len(dropped), folder, len(trials))
    return 0
