"""A real API server with nascale's kinds, and the objects that the tests start from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from nascale.api.custom_resource_definition import KINDS
from nascale.local.instance import LocalCluster

REPOSITORY = Path(__file__).parents[2]
SEARCHES = "/apis/nascale.io/v1alpha1/namespaces/default/architecturesearches"
SWEEPS = "/apis/nascale.io/v1alpha1/namespaces/default/scalingsweeps"
TRAININGS = "/apis/nascale.io/v1alpha1/namespaces/default/progressivetrainings"
PLURALS = {kind.kind: kind.plural for kind in KINDS}
Document = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the API server answered: whether it accepts, the object, and every message in plain text."""

    accepted: bool
    document: Document
    text: str


class Admission:
    """Asks the API server about objects as kubectl does: strict about unknown fields."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self._api = cluster.api()

    def create(self, document: Document, *, dry: bool = True, validation: str = "Strict") -> Verdict:
        collection = f"/apis/nascale.io/v1alpha1/namespaces/default/{PLURALS[document['kind']]}"
        options = f"?fieldValidation={validation}" + ("&dryRun=All" if dry else "")
        return _verdict(self._api.request("POST", collection + options, document))

    def patch(self, path: str, changes: Document) -> Verdict:
        return _verdict(
            self._api.request("PATCH", path, changes, content_type="application/merge-patch+json")
        )

    def delete(self, path: str) -> None:
        self._api.request("DELETE", path)


def _verdict(answer: Any) -> Verdict:
    document = json.loads(answer.body)
    return Verdict(answer.ok, document, document.get("message", ""))


@pytest.fixture(scope="session")
def admission(control_plane: LocalCluster) -> Admission:
    """The API server, with the checked-in CRDs applied."""
    folder = f"--filename={REPOSITORY / 'crds'}"
    control_plane.kubectl("apply", "--server-side", folder)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", folder)
    # kubectl keeps what a server serves for hours, and explain does not ask again for a short name.
    control_plane.kubectl("api-resources")
    return Admission(control_plane)


def _corpus(path: str) -> Document:
    document: Document = yaml.safe_load((REPOSITORY / "tests/api/corpus" / path).read_text())
    return document


@pytest.fixture(scope="session")
def minimal() -> Document:
    """A search with its required fields and nothing else."""
    return _corpus("valid/only-required-fields.yaml")


@pytest.fixture(scope="session")
def minimal_sweep() -> Document:
    """A sweep with its required fields and nothing else."""
    return _corpus("valid/sweeps/only-required-fields.yaml")


@pytest.fixture(scope="session")
def minimal_training() -> Document:
    """A training with its required fields and nothing else."""
    return _corpus("valid/trainings/only-required-fields.yaml")


@pytest.fixture
def running(admission: Admission, minimal: Document) -> Iterator[Callable[..., str]]:
    """Return a function that creates a search with changes to its spec, and returns its path."""
    yield from _creating(admission, minimal, SEARCHES)


@pytest.fixture
def running_sweep(admission: Admission, minimal_sweep: Document) -> Iterator[Callable[..., str]]:
    """Return a function that creates a sweep with changes to its spec, and returns its path."""
    yield from _creating(admission, minimal_sweep, SWEEPS)


@pytest.fixture
def running_training(admission: Admission, minimal_training: Document) -> Iterator[Callable[..., str]]:
    """Return a function that creates a training with changes to its spec, and returns its path."""
    yield from _creating(admission, minimal_training, TRAININGS)


def _creating(admission: Admission, minimal: Document, collection: str) -> Iterator[Callable[..., str]]:
    paths: list[str] = []

    def create(name: str, **spec: Any) -> str:
        document = deepcopy(minimal)
        document["metadata"]["name"] = name
        document["spec"] |= spec
        verdict = admission.create(document, dry=False)
        assert verdict.accepted, verdict.text
        paths.append(f"{collection}/{name}")
        return paths[-1]

    yield create
    for path in paths:
        admission.delete(path)
