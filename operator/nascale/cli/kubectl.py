"""kubectl, as a person would run it: the demo shows nothing that a user could not do."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class KubectlError(RuntimeError):
    """kubectl refused; the message holds the command and what it said."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl with one kubeconfig.

    Attributes:
        program: The binary.
        kubeconfig: ``None`` leaves it to kubectl (``$KUBECONFIG``, or the pod's account).
    """

    program: Path
    kubeconfig: Path | None = None

    def run(self, *arguments: str, given: str | None = None) -> str:
        """Run a command and return its output.

        Args:
            arguments: Arguments after the kubeconfig.
            given: Text for standard input.

        Raises:
            KubectlError: it ended with another status than 0.
        """
        config = [] if self.kubeconfig is None else [f"--kubeconfig={self.kubeconfig}"]
        ended = subprocess.run(
            [str(self.program), *config, *arguments], input=given, capture_output=True, text=True, check=False
        )
        if ended.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {ended.stderr.strip()}")
        return ended.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return one object, or a list of objects, as JSON."""
        found: dict[str, Any] = json.loads(self.run("get", *arguments, "--output=json"))
        return found

    def apply(self, *manifests: Mapping[str, Any]) -> None:
        """Apply objects, server-side."""
        documents = yaml.safe_dump_all([dict(manifest) for manifest in manifests])
        self.run("apply", "--server-side", "--force-conflicts", "--filename=-", given=documents)
