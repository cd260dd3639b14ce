"""Which manifests the demo applies."""

from __future__ import annotations

from pathlib import Path

import pytest

from nascale.cli.demo import NAMESPACE, read_examples

SEARCH = "kind: ArchitectureSearch\nmetadata: {name: a}\n"
SWEEP = "kind: ScalingSweep\nmetadata: {name: b, namespace: elsewhere}\n"
CLAIM = "kind: PersistentVolumeClaim\nmetadata: {name: c}\n"


def test_by_default_a_search_then_a_sweep_of_its_base_network_then_a_training_of_a_member() -> None:
    search, sweep, training = read_examples(None)
    kinds = ("ArchitectureSearch", "ScalingSweep", "ProgressiveTraining")
    assert (search.kind, sweep.kind, training.kind) == kinds
    assert sweep.main["spec"]["base"]["searchName"] == search.name
    member = training.main["spec"]["model"]["member"]
    assert member["sweepName"] == sweep.name
    assert member["name"] in [each["name"] for each in sweep.main["spec"]["family"]]
    for example, claimed in ((sweep, "checkpoints"), (training, "volume")):
        claims = [other["metadata"]["name"] for other in example.others]
        assert example.main["spec"][claimed]["claimName"] in claims


def test_a_file_of_ones_own_runs_alone_in_the_demos_namespace(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"{CLAIM}---\n---\n{SWEEP}")
    (example,) = read_examples(path)
    assert (example.kind, example.name) == ("ScalingSweep", "b")
    (claim,) = example.others
    assert claim["kind"] == "PersistentVolumeClaim"
    assert {each["metadata"]["namespace"] for each in (example.main, claim)} == {NAMESPACE}


@pytest.mark.parametrize("text", ["", CLAIM, f"{SEARCH}---\n{SWEEP}", "- 1\n"])
def test_a_file_without_exactly_one_object_to_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(
        ValueError, match="kind must be ArchitectureSearch or ScalingSweep or ProgressiveTraining, in one"
    ):
        read_examples(path)
