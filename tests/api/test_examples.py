"""A real API server takes every numbered example as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.cluster

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("[0-9][0-9]-*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_numbered_example_is_accepted(path: Path, admission: Any) -> None:
    documents = list(yaml.safe_load_all(path.read_text()))
    ours = [document for document in documents if document["apiVersion"].startswith("nascale.io/")]
    assert len(ours) == 1
    verdict = admission.create(ours[0])
    assert verdict.accepted, verdict.text
