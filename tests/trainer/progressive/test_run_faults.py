"""Hostile checkpoints, other runs' folders, volumes that are of no use."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from tests.trainer.progressive.tiny_task import (
    Killed,
    Recorder,
    TinyTask,
    order,
    prepare,
    stage,
    stop_at,
    train,
)

from nascale.contract.run_report import RunOutcome
from nascale_trainer.progressive import run_checkpoint
from nascale_trainer.progressive.run_end import EndKind
from nascale_trainer.progressive.run_folder import RunFolder, digest_of

EVERY_STEP = {"checkpoints": {"everySeconds": 86400, "everySteps": 1}}


def checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-"))


def interrupted(folder: Path, steps: int = 5, **fields):
    """Train some steps with a checkpoint after each, then die without another."""
    run_order = order(stage("only"), **{**EVERY_STEP, **fields})
    run = prepare(folder, run_order, recorder=Recorder(kill_after=steps))
    with pytest.raises(Killed):
        run.loop.run()
    return run_order


class TestHostileCheckpoints:
    def test_a_checkpoint_never_runs_code(self, tmp_path):
        folder = tmp_path / "run"
        run_order = interrupted(folder)
        newest = checkpoints(folder)[-1]
        mark = tmp_path / "mark"

        class Hostile:
            def __reduce__(self):
                return (Path.touch, (mark,))

        torch.save({"network": Hostile()}, newest / "state.pt")
        manifest = json.loads((newest / "manifest.json").read_text())
        manifest["files"]["state.pt"] = digest_of(newest / "state.pt")
        (newest / "manifest.json").write_text(json.dumps(manifest))
        resumed = train(folder, run_order)
        assert resumed.report.outcome is RunOutcome.COMPLETED
        assert resumed.recorder.snapshots[-1].totals.damaged_checkpoints == 1
        assert not mark.exists()


class TestForeignFolders:
    def test_two_runs_on_one_folder_the_second_is_refused_and_nothing_changes(self, tmp_path):
        folder = tmp_path / "run"
        interrupted(folder)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        other = {"kind": "ProgressiveTraining", "name": "other", "namespace": "default", "uid": "u-2"}
        refused = train(folder, order(stage("only"), run=other))
        assert (refused.report.outcome, refused.report.reason) == (RunOutcome.REFUSED, "ForeignFolder")
        assert "belongs to demo" in refused.report.message
        for path, content in before.items():
            assert path.read_bytes() == content

    @pytest.mark.parametrize("change", ["seed", "data"])
    def test_a_checkpoint_of_another_model_or_data_is_refused(self, tmp_path, change):
        folder = tmp_path / "run"
        interrupted(folder)
        if change == "seed":
            refused = train(folder, order(stage("only"), seed=4))
        else:
            refused = train(folder, order(stage("only")), TinyTask(shift=1.0))
        assert (refused.report.outcome, refused.report.reason) == (RunOutcome.REFUSED, "ForeignCheckpoint")

    def test_a_writer_stops_where_a_later_generation_has_committed(self, tmp_path):
        folder = tmp_path / "run"
        interrupted(folder)
        later = train(folder, order(stage("only"), generation=2, **EVERY_STEP), stop=stop_at(2))
        assert later.end.kind is EndKind.STOPPED
        before = [path.name for path in checkpoints(folder)]
        stale = train(folder, order(stage("only"), **EVERY_STEP))
        assert (stale.report.outcome, stale.report.reason) == (RunOutcome.REFUSED, "Superseded")
        assert [path.name for path in checkpoints(folder)] == before
        assert stale.recorder.steps == 0


class TestVolumes:
    def test_a_missing_volume_is_refused_naming_it(self, tmp_path):
        (tmp_path / "file").write_text("no folder")
        refused = train(tmp_path / "file" / "run", order(stage("only")))
        assert (refused.report.outcome, refused.report.reason) == (RunOutcome.REFUSED, "VolumeUnusable")
        assert str(tmp_path / "file" / "run") in refused.report.message
        assert refused.task.numbers == []

    @pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC])
    def test_a_read_only_or_full_volume_is_refused_at_the_start(self, tmp_path, monkeypatch, error):
        def refuse(path, _content):
            raise OSError(error, "as the kernel says it", str(path))

        monkeypatch.setattr("nascale_trainer.progressive.run_folder.write_atomically", refuse)
        refused = train(tmp_path / "run", order(stage("only")))
        assert (refused.report.outcome, refused.report.reason) == (RunOutcome.REFUSED, "VolumeUnusable")
        assert refused.task.numbers == []

    def test_a_volume_that_fills_up_costs_checkpoints_but_no_step(self, tmp_path, monkeypatch):
        reference = train(tmp_path / "reference", order(stage("only"), **EVERY_STEP))
        real, calls = torch.save, []

        def fill_up(state, file):
            calls.append(file)
            if 3 <= len(calls) <= 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(state, file)

        monkeypatch.setattr(run_checkpoint.torch, "save", fill_up)
        run = train(tmp_path / "run", order(stage("only"), **EVERY_STEP))
        assert run.report.outcome is RunOutcome.COMPLETED
        assert run.recorder.steps == 12
        assert RunFolder(tmp_path / "run").incidents().failed_checkpoints == 4
        weights, wanted = (each.trainee.network.state_dict() for each in (run, reference))
        assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
