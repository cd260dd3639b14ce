"""A search, a sweep and a generated training say where what they measure on is shared with others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.reconcile.generations import generated_training
from tests.reconcile.searches import search
from tests.reconcile.simulation import SimulatedCluster
from tests.reconcile.sweeps import sweep
from tests.reconcile.trainings import training

from nascale.reconcile import architecture_search, progressive_training, scaling_sweep
from nascale.reconcile.shared_devices import asked_of_nodes

GPU = {"limits": {"nvidia.com/gpu": 1}}
SLICED = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}


def placed(document, **place):
    field = "placement" if document["kind"] == "ProgressiveTraining" else "target"
    document["spec"][field] = place
    return document


PLANS = {
    "search": (search, architecture_search.plan),
    "sweep": (sweep, scaling_sweep.plan),
    "training": (generated_training, progressive_training.plan),
}


def looked_at(kind, nodes=None, **place):
    """Return a first look's condition, and its warnings."""
    make, plan = PLANS[kind]
    observed = SimulatedCluster(placed(make(), **place)).observe()
    made = plan(replace(observed, sharing_nodes=nodes or {}))
    said = [entry for entry in made.status["conditions"] if entry["type"] == "DevicesExclusive"]
    warnings = [event.reason for event in made.events if event.type == "Warning"]
    return (said[0] if said else None), warnings


@pytest.mark.parametrize("kind", PLANS)
class TestEveryKind:
    def test_a_share_by_its_name_is_warned_about(self, kind):
        said, warnings = looked_at(kind, resources={"limits": {"nvidia.com/gpu.shared": 1}})
        assert (said["status"], said["reason"]) == ("False", "SharedResource")
        assert "nvidia.com/gpu.shared" in said["message"]
        assert warnings == ["DeviceShared"]

    def test_nodes_that_hand_out_shares_are_warned_about(self, kind):
        said, warnings = looked_at(kind, {"nvidia.com/gpu": (SLICED,)}, resources=GPU)
        assert (said["status"], said["reason"]) == ("False", "SharedNodes")
        assert "up to 4 shares by time-slicing" in said["message"]
        assert warnings == ["DeviceShared"]

    def test_nodes_that_the_target_leaves_out_do_not_matter(self, kind):
        nodes = {"nvidia.com/gpu": ({**SLICED, "pool": "other"},)}
        said, warnings = looked_at(kind, nodes, resources=GPU, nodeSelector={"pool": "own"})
        assert (said["status"], said["reason"]) == ("True", "NoShares")
        assert warnings == []

    def test_without_the_right_to_read_nodes_it_is_said_that_nothing_is_known(self, kind):
        said, warnings = looked_at(kind, resources=GPU)
        assert (said["status"], said["reason"]) == ("Unknown", "NodesNotRead")
        assert warnings == []

    @pytest.mark.parametrize(
        ("label", "value"),
        [
            ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB-SHARED"),
            ("nvidia.com/gpu.sharing-strategy", "mps"),
            ("nvidia.com/gpu.replicas", "4"),
        ],
    )
    def test_a_selector_of_shares_tells_without_reading_nodes(self, kind, label, value):
        said, _ = looked_at(kind, resources=GPU, nodeSelector={label: value})
        assert (said["status"], said["reason"]) == ("False", "SharedNodes")
        assert f"{label}={value}" in said["message"]

    @pytest.mark.parametrize(
        ("label", "value"),
        [
            ("nvidia.com/gpu.product", "NVIDIA-A100-SXM4-40GB"),
            ("nvidia.com/gpu.sharing-strategy", "none"),
            ("nvidia.com/gpu.replicas", "1"),
        ],
    )
    def test_a_selector_of_whole_devices_does_not(self, kind, label, value):
        said, _ = looked_at(kind, resources=GPU, nodeSelector={label: value})
        assert (said["status"], said["reason"]) == ("Unknown", "NodesNotRead")

    def test_nothing_is_said_of_processors_and_of_devices_that_have_no_such_labels(self, kind):
        assert looked_at(kind, resources={"limits": {"cpu": "1"}}) == (None, [])
        assert looked_at(kind, resources={"limits": {"amd.com/gpu": 1}}) == (None, [])


def test_parts_of_a_gpu_are_shared_by_their_own_labels():
    profile = {"limits": {"nvidia.com/mig-1g.5gb": 1}}
    labels = {"nvidia.com/mig-1g.5gb.replicas": "2", "nvidia.com/gpu.replicas": "1"}
    said, _ = looked_at("search", {"nvidia.com/mig-1g.5gb": (labels,)}, resources=profile)
    assert (said["reason"], said["status"]) == ("SharedNodes", "False")
    assert "hand out nvidia.com/mig-1g.5gb in up to 2 shares:" in said["message"]


def test_the_warning_is_given_once_and_the_condition_heals():
    cluster = SimulatedCluster(placed(search(), resources=GPU))
    shared = replace(cluster.observe(), sharing_nodes={"nvidia.com/gpu": (SLICED,)})
    first = architecture_search.plan(shared)
    cluster.write_status(cluster.owner["metadata"]["resourceVersion"], dict(first.status))
    again = architecture_search.plan(replace(cluster.observe(), sharing_nodes=shared.sharing_nodes))
    alone = architecture_search.plan(replace(cluster.observe(), sharing_nodes={"nvidia.com/gpu": ()}))

    assert [event.reason for event in first.events] == ["SearchStarted", "DeviceShared"]
    assert "DeviceShared" not in [event.reason for event in again.events]
    healed = [entry for entry in alone.status["conditions"] if entry["type"] == "DevicesExclusive"]
    assert [(entry["status"], entry["reason"]) for entry in healed] == [("True", "NoShares")]


class TestWhatNodesAreAskedAbout:
    @pytest.mark.parametrize(("make", "place"), [(search, "target"), (generated_training, "placement")])
    def test_devices_of_the_target(self, make, place):
        document = make()
        document["spec"][place] = {"resources": GPU}
        assert asked_of_nodes(document) == ("nvidia.com/gpu",)

    def test_devices_of_the_template_and_of_a_training_s_defaults(self):
        document = generated_training()
        document["spec"]["podTemplate"]["resources"] = {"requests": {"nvidia.com/mig-1g.5gb": 1}}
        document["spec"]["defaults"]["hardware"] = {"resources": {"nvidia.com/gpu": 1}}
        assert asked_of_nodes(document) == ("nvidia.com/gpu", "nvidia.com/mig-1g.5gb")

    def test_nothing_where_nothing_is_measured_or_no_label_would_tell(self):
        assert asked_of_nodes(placed(training(), resources=GPU)) == ()
        assert asked_of_nodes(placed(search(), resources={"limits": {"cpu": 1, "amd.com/gpu": 1}})) == ()
        assert asked_of_nodes({"kind": "ArchitectureSearch"}) == ()
        assert asked_of_nodes({"spec": {"target": None, "trialTemplate": {"resources": None}}}) == ()
