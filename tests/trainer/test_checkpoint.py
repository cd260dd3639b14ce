"""What is kept between pods: whole or skipped, and only for the very same work."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nascale.contract.architecture import Architecture
from nascale.contract.report import CandidateReport, DeviceReport, Outcome
from nascale.contract.work_order import parse_work_order
from nascale_trainer.build import build_network
from nascale_trainer.checkpoint import CandidateFolder, ExactResult, fingerprint

DEVICE = DeviceReport(type="cpu", name="test")


@pytest.fixture
def folder(tmp_path):
    return CandidateFolder(tmp_path, "demo-0", "work-a")


def state(epoch):
    return {"epoch": epoch, "network": {"weight": torch.full((3,), float(epoch))}, "latency": {"p50": 0.1}}


def exact(work="work-a"):
    result = CandidateReport(trial="demo-0", outcome=Outcome.SUCCEEDED, metrics={"accuracy": 0.1 + 0.2})
    return ExactResult(fingerprint=work, result=result, device=DEVICE, measurement={"p50": 1.0}, order={})


def test_the_newest_checkpoint_is_taken_up(folder):
    assert folder.load_checkpoint() is None
    for epoch in (1, 2, 3):
        folder.save_checkpoint(epoch, state(epoch))
    loaded = folder.load_checkpoint()
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["network"]["weight"], torch.full((3,), 3.0))


def test_two_checkpoints_are_kept(folder):
    for epoch in range(1, 12):
        folder.save_checkpoint(epoch, state(epoch))
    assert sorted(file.name for file in folder.path.iterdir()) == [
        "epoch-000010.json",
        "epoch-000010.pt",
        "epoch-000011.json",
        "epoch-000011.pt",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda _: b"",
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    ],
    ids=["cut", "empty", "one bit"],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(folder, damage, caplog):
    for epoch in (1, 2):
        folder.save_checkpoint(epoch, state(epoch))
    damaged = folder.path / "epoch-000002.pt"
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert folder.load_checkpoint()["epoch"] == 1
    assert "epoch-000002.pt is skipped: its digest must be" in caplog.text


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"epoch": 1, "work": "work-a"}'])
def test_a_damaged_manifest_is_skipped(folder, text):
    folder.save_checkpoint(1, state(1))
    (folder.path / "epoch-000002.json").write_text(text)
    assert folder.load_checkpoint()["epoch"] == 1


def test_a_kill_between_checkpoint_and_manifest_leaves_the_one_before(folder):
    folder.save_checkpoint(1, state(1))
    folder.save_checkpoint(2, state(2))
    (folder.path / "epoch-000002.json").unlink()
    (folder.path / ".epoch-000003.pt.77.tmp").write_bytes(b"half")
    assert folder.load_checkpoint()["epoch"] == 1


def test_a_checkpoint_that_would_run_code_is_not_loaded(folder, caplog):
    class Harmful:
        def __reduce__(self):
            return (print, ("harm",))

    folder.save_checkpoint(1, {"epoch": 1, "harmful": Harmful()})
    assert folder.load_checkpoint() is None
    assert "is skipped" in caplog.text


def test_checkpoints_and_results_of_other_work_are_not_seen(folder, tmp_path):
    folder.save_checkpoint(1, state(1))
    other = CandidateFolder(tmp_path, "demo-0", "work-b")
    assert other.load_checkpoint() is None
    folder.save_result(exact())
    assert other.load_result() is None
    assert folder.load_result() == exact()


def test_the_result_is_exact_and_ends_the_checkpoints(folder):
    folder.save_checkpoint(1, state(1))
    folder.save_result(exact())
    assert [file.name for file in folder.path.iterdir()] == ["result.json"]
    assert folder.load_result().result.metrics["accuracy"] == 0.1 + 0.2


def test_a_damaged_result_is_skipped(folder):
    folder.save_result(exact())
    path = folder.path / "result.json"
    path.write_bytes(path.read_bytes()[:50])
    assert folder.load_result() is None


def test_weights_and_architecture_are_enough_to_build_the_network_again(folder, make_architecture):
    architecture = Architecture.model_validate(make_architecture())
    network = build_network(architecture, 1, 10, seed=4).eval()
    folder.save_weights(network, architecture, classes=10, channels=1)

    read = Architecture.model_validate_json((folder.path / "architecture.json").read_bytes())
    assert read == architecture
    with safe_open(folder.path / "weights.safetensors", "pt") as file:
        about = json.loads(file.metadata()["nascale"])
    assert Architecture.model_validate(about["architecture"]) == architecture
    again = build_network(read, about["channels"], about["classes"], seed=99).eval()
    again.load_state_dict(load_file(folder.path / "weights.safetensors"))
    images = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(images), again(images))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"attempt": 3}, True),
        ({"exporter": {"maxLingerSeconds": 1}}, True),
        ({"measurement": {"minCalls": 500}}, True),
        ({"fidelity": {"epochs": 9}}, False),
        ({"training": {"learningRate": 0.5}}, False),
        ({"data": {"name": "FashionMNIST"}}, False),
        ({"target": {"batchSize": 4}}, False),
    ],
)
def test_only_what_decides_the_result_is_in_the_fingerprint(make_order, make_architecture, change, same):
    def digest(**fields):
        document = make_order(**{"fidelity": {"epochs": 2}, "data": {"name": "Digits"}, **fields})
        document["candidates"][0]["architecture"] = make_architecture()
        order = parse_work_order(json.dumps(document))
        return fingerprint(order, order.candidates[0])

    assert (digest() == digest(**change)) is same


def test_the_other_candidates_of_an_order_are_not_in_the_fingerprint(make_order):
    alone = parse_work_order(json.dumps(make_order(trials=("a",))))
    together = parse_work_order(json.dumps(make_order(trials=("a", "b"))))
    assert fingerprint(alone, alone.candidates[0]) == fingerprint(together, together.candidates[0])
    assert fingerprint(together, together.candidates[0]) != fingerprint(together, together.candidates[1])
