"""The node's side of the server that forks shims."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from nascale.local.node import shim

logger = logging.getLogger(__name__)

SHIM_MARK: Final = "NASCALE_NODE_SHIMS"
"""In the environment of the server and of every shim: the node's folder."""
CLUSTER_MARK: Final = "NASCALE_CLUSTER_DIRECTORY"
"""In the environment of every process of an embedded cluster: the cluster's folder."""
ANSWER_SECONDS: Final = 10.0
ATTEMPTS: Final = 2
# The interpreter itself, not the virtual environment's link to it: it looks for fewer files when it starts.
INTERPRETER: Final[str] = getattr(sys, "_base_executable", None) or sys.executable


class Spawner:
    """Starts shims, and the server that forks them when it is needed."""

    def __init__(self, state_directory: Path) -> None:
        """Start nothing yet."""
        self._mark = str(state_directory)
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start the server now, so that the first container does not wait for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ANSWER_SECONDS)
        with theirs:
            self._server = subprocess.Popen(
                [INTERPRETER, "-I", "-S", str(shim.__file__)],
                env={SHIM_MARK: self._mark, **cluster_mark()},
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket = ours

    def spawn(self, run_file: Path) -> int:
        """Run a container; return its shim's pid.

        Raises:
            OSError: no server answers.
        """
        for attempt in range(ATTEMPTS):
            if self._socket is None:
                self.start()
            try:
                return self._ask(run_file)
            except OSError as error:
                logger.warning("the server of shims is gone: %s", error)
                self.close()
                if attempt + 1 == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the server; the shims go on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._server is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(timeout=1.0)
            self._server.kill()
            self._server.wait()
            self._server = None

    def _ask(self, run_file: Path) -> int:
        if self._socket is None:
            raise ConnectionError("no server runs")
        self._socket.send(os.fsencode(run_file))
        answer = self._socket.recv(64)
        if not answer:
            raise ConnectionError("the server closed its socket")
        return int(answer)


def cluster_mark() -> dict[str, str]:
    """Return the mark of the cluster that the node belongs to: who ends the cluster finds processes by it."""
    return {CLUSTER_MARK: os.environ[CLUSTER_MARK]} if CLUSTER_MARK in os.environ else {}
