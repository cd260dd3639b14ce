"""Documents that are small and unfold to something huge, or nest deeper than a parser can follow."""

from __future__ import annotations

from typing import Any

import pytest

from nascale.contract.errors import ContractError
from nascale.contract.profile_order import parse_profile_order
from nascale.contract.report import parse_report
from nascale.contract.run_order import parse_desired_state, parse_run_order
from nascale.contract.run_report import parse_run_report
from nascale.contract.work_order import parse_work_order
from nascale.local.errors import ClusterError
from nascale.local.instance import LocalCluster
from nascale.reconcile.snapshot import read_pod
from nascale.reconcile.training_generations import former_states

DEEP = ("[" * 200_000, '{"a":' * 200_000, '{"version":' + "[" * 200_000)
ALIASES = 9
PARSERS = (
    parse_report,
    parse_run_report,
    parse_work_order,
    parse_profile_order,
    parse_run_order,
    parse_desired_state,
)


@pytest.mark.parametrize("text", DEEP, ids=["lists", "mappings", "within-a-document"])
@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
def test_a_document_that_nests_without_end_is_a_fault_of_the_document(parse: Any, text: str):
    with pytest.raises(ContractError):
        parse(text)


@pytest.mark.parametrize("text", DEEP[:2], ids=["lists", "mappings"])
def test_an_annotation_that_nests_without_end_tells_nothing(text: str):
    pod = {"metadata": {"name": "p", "annotations": {"nascale.io/former-states": text}}, "status": {}}

    assert former_states(read_pod(pod)) == ()


def _yaml_bomb() -> str:
    """Return a search whose name would have 10^9 parts."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 10)}]" for depth in range(1, ALIASES)]
    head = ["apiVersion: nascale.io/v1alpha1", "kind: ArchitectureSearch", "metadata: {name: bomb}"]
    return "\n".join([*head, *lines, f"spec: {{space: *a{ALIASES - 1}}}"])


@pytest.mark.cluster
def test_a_manifest_whose_aliases_unfold_is_refused(control_plane: LocalCluster):
    with pytest.raises(ClusterError, match="excessive aliasing"):
        control_plane.kubectl("create", "--filename=-", stdin=_yaml_bomb())


@pytest.mark.cluster
def test_an_object_that_nests_without_end_is_refused(admission: Any, minimal: dict[str, Any]):
    deep: Any = "x"
    for _ in range(900):  # as far as Python itself writes it
        deep = [deep]
    document = {**minimal, "spec": {**minimal["spec"], "space": {"parameters": deep}}}

    verdict = admission.create(document)

    assert not verdict.accepted
    assert "spec.space.parameters" in verdict.text
    assert len(verdict.text) < 4096
