"""What a generation's end leaves for processes that come too late."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.trainer.progressive.tiny_task import order, stage

from nascale.contract.run_order import RunOrder
from nascale.contract.run_report import RunOutcome, RunReport
from nascale_trainer.progressive.generation_end import SUPERSEDED, record_end, recorded_end


def wanted(generation: int = 3, uid: str = "u-1") -> RunOrder:
    made = order(stage("only"), generation=generation)
    return made.model_copy(update={"run": made.run.model_copy(update={"uid": uid})})


@pytest.mark.parametrize("outcome", RunOutcome)
def test_an_end_that_lasts_is_read_again(tmp_path: Path, outcome: RunOutcome) -> None:
    report = RunReport(generation=3, outcome=outcome, step=5, samples=40)
    record_end(tmp_path, wanted(), report)
    assert recorded_end(tmp_path, wanted()) == (None if outcome is RunOutcome.REFUSED else report)
    assert recorded_end(tmp_path, wanted(generation=4)) is None
    assert recorded_end(tmp_path, wanted(uid="other")) is None


def test_a_process_that_was_superseded_writes_nothing(tmp_path: Path) -> None:
    record_end(tmp_path, wanted(), RunReport(generation=3, outcome=RunOutcome.FAILED, reason=SUPERSEDED))
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"uid": "u-1", "report": 1}', '{"uid": "u-1", "report": "{}"}']
)
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "ended").mkdir()
    (tmp_path / "ended" / "g3.json").write_text(content)
    assert recorded_end(tmp_path, wanted()) is None


def test_a_folder_that_takes_no_file_is_not_worth_an_end(tmp_path: Path) -> None:
    (tmp_path / "ended").write_text("in the way")
    record_end(tmp_path, wanted(), RunReport(generation=3, outcome=RunOutcome.PAUSED))
    assert recorded_end(tmp_path, wanted()) is None
