"""Helm, and what the chart renders to."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.local.binaries import ensure
from nascale.local.products import HELM

CHART = Path(__file__).parents[2] / "charts" / "nascale"
Manifest = dict[str, Any]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Return a function that runs helm and returns what it said."""
    program = ensure([HELM])["helm"]

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Callable[..., list[Manifest]]:
    """Return a function that renders the chart; ``crds__keep=False`` sets the value ``crds.keep``."""

    def run(**values: Any) -> list[Manifest]:
        options = ("--namespace=nascale-system", "--api-versions=monitoring.coreos.com/v1", *settings(values))
        text = helm("template", "nascale", str(CHART), *options).stdout
        return [document for document in yaml.safe_load_all(text) if document]

    return run


def settings(values: dict[str, Any]) -> list[str]:
    """Return helm's options that set these values."""
    return [f"--set-json={key.replace('__', '.')}={json.dumps(value)}" for key, value in values.items()]
