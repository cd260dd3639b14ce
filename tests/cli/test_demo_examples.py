"""Which manifests the demo applies."""

from __future__ import annotations

from pathlib import Path

import pytest

from nascale.cli.demo import NAMESPACE, read_examples

SEARCH = "kind: ArchitectureSearch\nmetadata: {name: a}\n"
SWEEP = "kind: ScalingSweep\nmetadata: {name: b, namespace: elsewhere}\n"
CLAIM = "kind: PersistentVolumeClaim\nmetadata: {name: c}\n"


def test_by_default_a_search_and_then_a_sweep_of_its_base_network() -> None:
    search, sweep = read_examples(None)
    assert (search.kind, sweep.kind) == ("ArchitectureSearch", "ScalingSweep")
    assert sweep.main["spec"]["base"]["searchName"] == search.name
    claims = [other["metadata"]["name"] for other in sweep.others]
    assert sweep.main["spec"]["checkpoints"]["claimName"] in claims


def test_a_file_of_ones_own_runs_alone_in_the_demos_namespace(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"{CLAIM}---\n---\n{SWEEP}")
    (example,) = read_examples(path)
    assert (example.kind, example.name) == ("ScalingSweep", "b")
    (claim,) = example.others
    assert claim["kind"] == "PersistentVolumeClaim"
    assert {each["metadata"]["namespace"] for each in (example.main, claim)} == {NAMESPACE}


@pytest.mark.parametrize("text", ["", CLAIM, f"{SEARCH}---\n{SWEEP}", "- 1\n"])
def test_a_file_without_exactly_one_search_or_sweep_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="kind must be ArchitectureSearch or ScalingSweep, in one document"):
        read_examples(path)
