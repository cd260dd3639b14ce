"""Which checkpoints stay, which are taken up, and what happens where none can be written."""

import errno
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
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
from nascale_trainer.progressive.run_end import EndKind
from nascale_trainer.progressive.run_folder import CheckpointName, RunFolder

EVERY_TWO = {"checkpoints": {"everySeconds": 86400, "everySteps": 2, "keep": 2}}
STEPS = 12


def make(**fields):
    return order(stage("one", model={"dropout": 0.1}), **{**EVERY_TWO, **fields})


def killed_after(tmp_path, steps, run_order=None):
    run = prepare(tmp_path / "run", run_order or make(), recorder=Recorder(kill_after=steps))
    with pytest.raises(Killed):
        run.loop.run()
    return tmp_path / "run" / "checkpoints"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "a state cut short": lambda folder: cut(folder / "state.pt"),
    "a state with another bit": lambda folder: flip(folder / "state.pt"),
    "no state": lambda folder: (folder / "state.pt").unlink(),
    "an empty state": lambda folder: (folder / "state.pt").write_bytes(b""),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a manifest cut short": lambda folder: cut(folder / "manifest.json"),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
    "a file elsewhere": lambda folder: elsewhere(folder / "manifest.json"),
}


def elsewhere(path):
    document = json.loads(path.read_bytes())
    document["files"] = {"../../run.json": "0" * 64}
    path.write_text(json.dumps(document), encoding="utf-8")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_and_counted_and_the_one_before_taken(tmp_path, damage):
    reference = train(tmp_path / "reference", make())
    checkpoints = killed_after(tmp_path, 5)
    assert sorted(each.name for each in checkpoints.iterdir()) == ["step-000000002.g1", "step-000000004.g1"]
    DAMAGES[damage](checkpoints / "step-000000004.g1")
    run = train(tmp_path / "run", make())
    totals = run.recorder.snapshots[-1].totals
    assert (totals.damaged_checkpoints, totals.lost_steps, totals.repeated_samples) == (1, 3, 16)
    assert run.recorder.steps == STEPS - 2
    weights, wanted = (each.trainee.network.state_dict() for each in (run, reference))
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    # Set aside: the next start does not count it again.
    again = train(tmp_path / "run", make())
    assert again.report.outcome is RunOutcome.COMPLETED


def test_a_run_begins_anew_where_all_checkpoints_are_damaged(tmp_path):
    checkpoints = killed_after(tmp_path, 5)
    for folder in checkpoints.iterdir():
        flip(folder / "state.pt")
    run = train(tmp_path / "run", make())
    assert run.recorder.steps == STEPS
    assert run.recorder.snapshots[-1].totals.damaged_checkpoints == 2
    assert len(list(checkpoints.glob(".damaged-*"))) == 1  # to look at; a volume is not filled with them


def test_what_an_unfinished_writer_left_is_ignored_and_removed(tmp_path):
    checkpoints = killed_after(tmp_path, 5)
    shutil.copytree(checkpoints / "step-000000004.g1", checkpoints / "step-000000099.g1.tmp")
    run = train(tmp_path / "run", make())
    assert run.report.lost_steps == 1
    assert not (checkpoints / "step-000000099.g1.tmp").exists()


def test_the_newest_checkpoints_stay(tmp_path):
    train(tmp_path / "run", make(checkpoints={"everySeconds": 86400, "everySteps": 1, "keep": 3}))
    names = sorted(each.name for each in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000010.g1", "step-000000011.g1", "step-000000012.g1"]


def test_a_checkpoint_that_was_being_replaced_counts(tmp_path):
    checkpoints = killed_after(tmp_path, 3)
    (checkpoints / "step-000000002.g1").rename(checkpoints / ".replaced-step-000000002.g1")
    assert train(tmp_path / "run", make()).report.lost_steps == 1


def test_checkpoints_are_made_by_the_clock(tmp_path):
    seconds = iter(range(10**6))
    run_order = order(stage("one"), checkpoints={"everySeconds": 20})
    run = prepare(
        tmp_path / "run", run_order, clock=lambda: float(next(seconds)), recorder=Recorder(kill_after=8)
    )
    with pytest.raises(Killed):
        run.loop.run()
    assert RunFolder(tmp_path / "run").names()


def test_a_folder_with_checkpoints_but_no_record_is_refused(tmp_path):
    killed_after(tmp_path, 5)
    (tmp_path / "run" / "run.json").unlink()
    assert train(tmp_path / "run", make()).report.reason == "ForeignFolder"


def test_a_switch_that_needs_a_checkpoint_fails_without_one(tmp_path, monkeypatch):
    def commit(_self, _name, _manifest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RunFolder, "commit", commit)
    run_order = order(stage("a", "40sp"), stage("b", hardware={"resources": {"cpu": "2"}}))
    run = train(tmp_path / "run", run_order)
    assert (run.report.outcome, run.report.reason) == (RunOutcome.FAILED, "VolumeUnusable")


def test_a_stop_without_room_for_a_checkpoint_still_stops(tmp_path, monkeypatch):
    def commit(_self, _name, _manifest):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(RunFolder, "commit", commit)
    run = train(tmp_path / "run", order(stage("one")), stop=stop_at(3))
    assert run.end.kind is EndKind.STOPPED


def test_checkpoints_are_ordered_by_generation_then_step():
    names = [
        CheckpointName(1, 9),
        CheckpointName(2, 5),
        CheckpointName(1, 10),
        CheckpointName(1, 10, current=False),
    ]
    assert [str(name) for name in sorted(names, reverse=True)] == [
        "step-000000005.g2",
        "step-000000010.g1",
        ".replaced-step-000000010.g1",
        "step-000000009.g1",
    ]


def test_weights_that_share_memory_are_kept_under_all_their_names(tmp_path):
    class Tied(TinyTask):
        def build(self, seed):
            network = super().build(seed)
            network.twin = network.deeper
            return network

    stopped = train(tmp_path / "run", make(), Tied(), stop=stop_at(3))
    assert stopped.end.kind is EndKind.STOPPED
    run = train(tmp_path / "run", make(), Tied())
    assert run.report.outcome is RunOutcome.COMPLETED
    kept = load_file(tmp_path / "run" / "model.safetensors")
    assert torch.equal(kept["twin.weight"], kept["deeper.weight"])
    assert torch.equal(kept["twin.weight"], run.trainee.network.deeper.weight)
