"""What the launcher and the training processes that it starts say to each other. No torch.

Each process has a socket to the launcher as its standard input. On it, a process announces that a Restart
comes; the launcher then starts the next one early, which imports what it needs and waits for the word to go.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from typing import Final, NoReturn

from nascale.contract import exit_codes
from nascale.contract.stage_settings import HardwareSettings
from nascale_trainer.threads import available_threads

LOCAL_RANK: Final = "NASCALE_LOCAL_RANK"
"""Place of a training process in its pod, from 0; unset in the launcher itself."""
ATTEMPT: Final = "NASCALE_START_ATTEMPT"
"""Counts the starts of a pod's processes, from 1."""
STARTED_AT: Final = "NASCALE_STARTED_AT"
"""When the process was started, or a waiting one told to go: seconds since the epoch."""
STANDBY: Final = "NASCALE_STANDBY"
"""Set in a process that is started early and waits."""

EXIT_UNUSABLE_ORDER: Final = exit_codes.UNUSABLE_ORDER
EXIT_RESTART: Final = 85
"""Start me again: the next stage needs new processes."""
EXIT_PEER_LOST: Final = exit_codes.PEER_LOST
"""A process of the run is gone; start me again to meet the others."""
EXIT_TERMINATED: Final = exit_codes.TERMINATED

OMP_THREADS: Final = "OMP_NUM_THREADS"
_CHANNEL: Final = 0
_MAX_MESSAGE: Final = 1 << 16
_PR_SET_PDEATHSIG: Final = 1

log = logging.getLogger(__name__)


def is_training_process(environ: Mapping[str, str]) -> bool:
    """Say whether the launcher has started this process."""
    return LOCAL_RANK in environ


def stage_environment(
    hardware: HardwareSettings, processes_per_worker: int, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that a stage wants in a process before it imports torch.

    Args:
        hardware: The stage's settings.
        processes_per_worker: Processes that share the container's processors.
        environ: The container's environment.
    """
    threads = hardware.threads or max(1, available_threads(environ=environ) // processes_per_worker)
    # Threads that wait for each other by spinning keep the processor from the very one they wait for.
    waiting = environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {"OMP_WAIT_POLICY": waiting, **hardware.environment, OMP_THREADS: str(threads)}


def adopt(wanted: Mapping[str, str], environ: MutableMapping[str, str]) -> bool:
    """Set a stage's variables before torch is imported.

    Returns:
        Whether this process can train the stage: not where it has waited with another stage's variables,
        which torch has read already.
    """
    if STANDBY in environ:
        return all(environ.get(name) == value for name, value in wanted.items())
    environ.update(wanted)
    return True


def announce_restart(variables: Mapping[str, str], environ: Mapping[str, str]) -> None:
    """Tell the launcher that this process will soon exit with 85, and what the next one needs.

    Calling it is never necessary, and without a launcher nothing happens.

    Args:
        variables: ``stage_environment`` of the stage to come.
        environ: The environment of the process.
    """
    if LOCAL_RANK not in environ:
        return
    message = json.dumps({"variables": dict(variables)}) + "\n"
    with suppress(OSError):
        os.write(_CHANNEL, message.encode())


def wait_for_start(environ: MutableMapping[str, str]) -> bool:
    """Wait for the launcher's word, in a process that was started early; others go on at once.

    Returns:
        Whether to go on: not when the launcher is gone or needs it no more.
    """
    if STANDBY not in environ:
        return True
    received = b""
    while not received.endswith(b"\n"):
        part = os.read(_CHANNEL, _MAX_MESSAGE)
        if not part:
            return False
        received += part
    environ.update(json.loads(received))
    return True


def start_message(attempt: int) -> bytes:
    """Return the word to go for a waiting process."""
    return json.dumps({ATTEMPT: str(attempt), STARTED_AT: repr(time.time())}).encode() + b"\n"


def parse_announcement(line: bytes) -> dict[str, str] | None:
    """Read what a process announces; ``None``: it is no announcement."""
    try:
        variables = json.loads(line)["variables"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(variables, dict):
        return None
    return {str(name): str(value) for name, value in variables.items()}


def end_with_launcher(environ: Mapping[str, str]) -> None:
    """Let the kernel end this process when the launcher is gone, so that no writer is left behind."""
    if LOCAL_RANK not in environ:
        return
    with suppress(OSError, AttributeError):  # Linux alone has it; elsewhere the container ends all the same
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def leave(code: int) -> NoReturn:
    """End this process at once.

    Taking apart all that torch has loaded takes about a second, more on a busy machine, in which those to
    come wait. Nothing is lost: files are written, the group is left.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
