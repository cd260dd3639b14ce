"""``nascale family export``: what it writes, and that the network there is the one that was trained."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from nascale.cli import family
from nascale.cli.main import app
from nascale.contract.architecture import Architecture
from nascale.contract.report import Outcome
from nascale.contract.work_order import parse_work_order
from nascale.local.node.provisioner import PROVISIONED_BY, PROVISIONER
from nascale.reconcile.naming import child_prefix
from nascale_trainer.batches import normalisation_of, split
from nascale_trainer.build import build_network
from nascale_trainer.data import load_source
from nascale_trainer.exporter import Metrics
from nascale_trainer.trial import TrialRun

UID = "0a1b2c3d"
PREFIX = child_prefix("digits-family", UID)
TRIAL = f"{PREFIX}-41"
ARCHITECTURE: dict[str, Any] = {
    "stem": {"type": "SpaceToDepth", "channels": 8, "stride": 2, "activation": "HardSwish"},
    "stages": [
        {"block": "FusedMBConv", "kernel": 3, "stride": 1, "expansion": 1, "channels": 16, "depth": 2},
        {"block": "MBConv", "kernel": 5, "stride": 2, "expansion": 4, "channels": 24, "depth": 1,
         "squeezeExcitation": "0.25", "activation": "GELU"},
    ],
    "head": {"channels": 64},
    "resolution": 12,
}  # fmt: skip
KUBECTL = """#!{python}
# Answers "get KIND NAME" from a file; the arguments that matter come first.
import json, sys
known = json.load(open({objects!r}))
found = known.get(" ".join(sys.argv[2:4]) if sys.argv[1] == "get" else "")
print(json.dumps(found) if found else "", end="")
sys.exit(None if found else 'Error from server (NotFound): "' + sys.argv[3] + '" not found')
"""


def sweep(**changes: Any) -> dict[str, Any]:
    """Return a sweep that has ended; ``member`` changes its member, ``spec`` its spec."""
    member = {
        "name": "small",
        "vector": {"depth": "1.2", "width": "1.1", "resolution": "1.15"},
        "depth": "1.5",
        "width": "1.25",
        "resolution": "1.0",
        "compoundCoefficient": "1.2",
        "budgetSeconds": "0.0009",
        "trial": TRIAL,
        "trainings": 1,
        "metrics": [
            {"name": "accuracy", "value": "0.9722", "source": "Report"},
            {"name": "latency_p50_seconds", "value": "0.00081", "source": "Prometheus"},
        ],
        "architecture": ARCHITECTURE,
        "gain": "0.004",
        **changes.pop("member", {}),
    }
    ended = {
        "type": "Succeeded", "status": "True", "reason": "FamilyFound",
        "lastTransitionTime": "2030-01-01T12:00:00Z",
    }  # fmt: skip
    return {
        "metadata": {"name": "digits-family", "namespace": "demo", "uid": UID},
        "spec": {
            "base": {"searchName": "digits"},
            "family": [{"name": "small", "latencyMultiple": "1.5"}],
            "trainingData": {"embedded": "Digits"},
            "target": {"resources": {"limits": {"cpu": "1"}}},
            "objectives": [
                {"metric": "latency_p50_seconds", "direction": "Minimize"},
                {"metric": "accuracy", "direction": "Maximize"},
            ],
            "budget": {"maxTrials": 60},
            "checkpoints": {"claimName": "weights"},
            **changes.pop("spec", {}),
        },
        "status": {"conditions": [ended], "family": [member], **changes.pop("status", {})},
    }


class Cluster:
    """A cluster that kubectl shows, and the command run against it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._objects = folder / "objects.json"
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, objects=str(self._objects)))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(family.binaries, "ensure", lambda *_, **__: {"kubectl": program})

    def holds(self, found: dict[str, Any], **others: dict[str, Any]) -> None:
        """Set what kubectl finds: the sweep, and further objects by kind (their name is in them)."""
        objects = {f"{family.RESOURCE} digits-family": found}
        objects |= {f"{kind} {each['metadata']['name']}": each for kind, each in others.items()}
        self._objects.write_text(json.dumps(objects))

    def export(self, *arguments: str | Path, member: str = "small") -> Result:
        """Run the command."""
        command = ["family", "export", "digits-family", "--member", member]
        return CliRunner().invoke(app, [*command, "--to", str(self.out), *map(str, arguments)])

    @property
    def out(self) -> Path:
        """Where it exports to."""
        return self.folder / "out"

    def files(self) -> set[str]:
        """Return the names of the exported files."""
        return {path.name for path in self.out.iterdir()}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(tmp_path, monkeypatch)
    made.holds(sweep())
    return made


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint volume on which the trainer itself has kept a trained network."""
    root = tmp_path_factory.mktemp("volume")
    folder = root / "nascale" / PREFIX
    order = {
        "version": "nascale.io/work-order/v1",
        "run": {"kind": "ScalingSweep", "name": "digits-family", "namespace": "demo", "uid": UID},
        "candidates": [{"trial": TRIAL, "index": 41, "architecture": ARCHITECTURE, "seed": 5}],
        "metrics": ["accuracy"],
        "data": {"name": "Digits"},
        "fidelity": {"epochs": 1, "dataFraction": 0.2},
        "measurement": {"minCalls": 20, "minSeconds": 0, "maxSpreadRatio": 10, "maxAttempts": 20},
    }
    environment = {"OMP_NUM_THREADS": "1", "NASCALE_CHECKPOINT_DIRECTORY": str(folder)}
    with Metrics("127.0.0.1", 0) as metrics:
        run = TrialRun(parse_work_order(json.dumps(order)), metrics, lambda: False, environment)
        (result,) = run.run()
    assert result.outcome is Outcome.SUCCEEDED, result.message
    return root


def lines_of_readme(folder: Path) -> str:
    """Return the lines of code that the exported page shows."""
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run_without_nascale(folder: Path, code: str) -> None:
    """Run code in a folder with torch and timm, and with no nascale to import."""
    packages = sysconfig.get_path("purelib")
    # -S leaves out the .pth file of an editable install, and with it nascale.
    before = (
        f"import sys; sys.path[:0] = ['', {packages!r}]\n"
        "import importlib.util\n"
        "assert not importlib.util.find_spec('nascale') and not importlib.util.find_spec('nascale_trainer')\n"
        "import torch\n"
    )
    subprocess.run(
        [sys.executable, "-I", "-S", "-c", before + code],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        check=True,
    )


class TestExportedNetwork:
    def test_the_documented_lines_give_exactly_the_trainers_outputs(
        self, cluster: Cluster, volume: Path, tmp_path: Path
    ) -> None:
        ended = cluster.export("--checkpoints", volume)
        assert ended.exit_code == 0, ended.output
        assert cluster.files() == {
            *("README.md", "architecture.json", "metrics.json", "model.safetensors", "network.py"),
        }
        lines = lines_of_readme(cluster.out)
        assert len(lines.splitlines()) == 3

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        order = parse_work_order(
            json.dumps(json.loads((volume / "nascale" / PREFIX / TRIAL / "result.json").read_text())["order"])
        )
        assert order.data is not None
        source = load_source(order.data)
        parts = split(source.labels, order.data)
        images = source.images(parts.validation, 12)
        network = build_network(Architecture.model_validate(ARCHITECTURE), 1, 10, seed=99).eval()
        network.load_state_dict(load_file(volume / "nascale" / PREFIX / TRIAL / "weights.safetensors"))
        mean, deviation = normalisation_of(source, parts.training)
        with torch.no_grad():
            expected = network((images - mean) / deviation)
        torch.set_num_threads(threads)

        save_file({"images": images}, tmp_path / "images.safetensors")
        run_without_nascale(
            cluster.out,
            "from safetensors.torch import load_file, save_file\n"
            f"images = load_file({str(tmp_path / 'images.safetensors')!r})['images']\n"
            f"{lines}"
            f"save_file({{'logits': logits.detach()}}, {str(tmp_path / 'logits.safetensors')!r})\n",
        )
        logits = load_file(tmp_path / "logits.safetensors")["logits"]
        assert torch.equal(logits, expected)
        reported = json.loads((volume / "nascale" / PREFIX / TRIAL / "result.json").read_text())["result"]
        right = (logits.argmax(dim=1) == source.labels[parts.validation]).float().mean()
        assert float(right) == pytest.approx(reported["metrics"]["accuracy"], abs=1e-6)

    def test_the_page_about_families_shows_the_same_lines(self, cluster: Cluster, volume: Path) -> None:
        cluster.export("--checkpoints", volume)
        page = Path(__file__).parents[2] / "docs" / "family.md"
        assert f"```python\n{lines_of_readme(cluster.out)}```" in page.read_text()

    def test_without_weights_the_documented_lines_build_the_network(self, cluster: Cluster) -> None:
        cluster.holds(sweep(spec={"checkpoints": None}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert "without weights: they were not kept, because spec.checkpoints is not set" in ended.stderr
        assert "model.safetensors" not in cluster.files()
        assert "There are no weights here: they were not kept" in (cluster.out / "README.md").read_text()
        lines = lines_of_readme(cluster.out)
        assert "channels=1, classes=10" in lines
        run_without_nascale(
            cluster.out,
            f"images = torch.rand(2, 1, 12, 12)\n{lines}assert logits.shape == (2, 10)\n"
            "try: load_network()\n"
            "except ValueError as error: assert 'channels, classes: must be given' in str(error)\n"
            "else: raise AssertionError('weights from nowhere')\n",
        )

    def test_architecture_and_values_are_those_of_the_status(self, cluster: Cluster, volume: Path) -> None:
        cluster.export("--checkpoints", volume)
        written = json.loads((cluster.out / "architecture.json").read_text())
        assert Architecture.model_validate(written) == Architecture.model_validate(ARCHITECTURE)
        document = json.loads((cluster.out / "metrics.json").read_text())
        assert document["metrics"] == {"accuracy": 0.9722, "latency_p50_seconds": 0.00081}
        assert document["multipliers"] == {"depth": 1.5, "width": 1.25, "resolution": 1.0}
        assert (document["budgetSeconds"], document["gainOverEfficientNet"]) == (0.0009, 0.004)
        assert (document["member"], document["trial"]) == ("small", TRIAL)


OWN_MEMBER: dict[str, Any] = {
    "architecture": None,
    "parameters": [{"name": "layers", "value": "3"}, {"name": "width", "value": "48"}],
}


class TestOwnModel:
    def test_the_scaled_sizes_take_the_place_of_the_network(self, cluster: Cluster) -> None:
        cluster.holds(sweep(member=OWN_MEMBER, spec={"checkpoints": None}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert cluster.files() == {"README.md", "metrics.json", "parameters.json"}
        made: dict[str, Any] = {}
        text = lines_of_readme(cluster.out).replace('open("', f'open("{cluster.out}/')
        exec(text, {"YourModel": lambda **sizes: made.update(sizes)})  # noqa: S102  # the page's own lines
        assert made == {"layers": 3, "width": 48}

    def test_weights_that_the_container_kept_under_the_trainers_name_come_along(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        cluster.holds(sweep(member=OWN_MEMBER))
        kept = tmp_path / "volume" / TRIAL
        kept.mkdir(parents=True)
        save_file({"own": torch.ones(2)}, kept / "weights.safetensors")
        ended = cluster.export("--checkpoints", kept.parent)
        assert ended.exit_code == 0, ended.output
        assert torch.equal(load_file(cluster.out / "model.safetensors")["own"], torch.ones(2))


class TestWhereWeightsAreFound:
    @pytest.mark.parametrize("below", ["", "nascale", f"nascale/{PREFIX}"])
    def test_any_folder_on_the_way_to_them_may_be_named(
        self, cluster: Cluster, volume: Path, below: str
    ) -> None:
        ended = cluster.export("--checkpoints", volume / below)
        assert ended.exit_code == 0, ended.output
        assert "model.safetensors" in cluster.files()

    def test_a_volume_of_the_embedded_cluster_is_found_by_itself(
        self, cluster: Cluster, volume: Path
    ) -> None:
        cluster.holds(sweep(), **volume_of_claim(volume, {PROVISIONED_BY: PROVISIONER}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert "model.safetensors" in cluster.files()

    def test_a_host_path_of_another_machine_is_not_taken_for_a_folder_of_this_one(
        self, cluster: Cluster, volume: Path
    ) -> None:
        cluster.holds(sweep(), **volume_of_claim(volume, {}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert "volume claim weights can't be read from here" in ended.stderr
        assert TRIAL in ended.stderr
        assert "model.safetensors" not in cluster.files()

    def test_a_claim_that_is_not_there_is_said(self, cluster: Cluster) -> None:
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert "name a folder where it can with --checkpoints" in ended.stderr

    def test_weights_that_were_dropped_are_said(self, cluster: Cluster, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        cluster.holds(sweep(), **volume_of_claim(tmp_path / "empty", {PROVISIONED_BY: PROVISIONER}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert f"{TRIAL}/weights.safetensors is not in" in ended.stderr

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"spec": {"checkpoints": None}}, "spec.checkpoints is not set"),
            (
                {"spec": {"checkpoints": {"claimName": "weights", "retention": "None"}}},
                "spec.checkpoints.retention is None",
            ),
            (
                {"member": {"trial": None}, "spec": {"reuseTrialsFrom": "elsewhere"}},
                "did not train it, its values were taken over from sweep elsewhere",
            ),
        ],
    )
    def test_a_folder_for_weights_that_were_never_kept_is_an_error(
        self, cluster: Cluster, volume: Path, changes: dict[str, Any], said: str
    ) -> None:
        cluster.holds(sweep(**changes))
        ended = cluster.export("--checkpoints", volume)
        assert ended.exit_code == 1
        assert said in ended.stderr
        assert not cluster.out.exists()

    def test_a_folder_without_them_is_an_error(self, cluster: Cluster, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        ended = cluster.export("--checkpoints", tmp_path / "empty")
        assert ended.exit_code == 1
        assert f"--checkpoints: {TRIAL}/weights.safetensors is not in" in ended.stderr
        assert not cluster.out.exists()

    def test_weights_of_another_network_are_refused(self, cluster: Cluster, volume: Path) -> None:
        cluster.holds(sweep(member={"architecture": {**ARCHITECTURE, "resolution": 16}}))
        ended = cluster.export("--checkpoints", volume)
        assert ended.exit_code == 1
        assert "must hold the weights of the member's network" in ended.stderr

    @pytest.mark.parametrize(
        "content", [b"", b"\xff" * 8, b"\x05" + b"\0" * 7 + b"[1,2]", b"\x02" + b"\0" * 7]
    )
    def test_a_file_of_another_format_is_refused(
        self, cluster: Cluster, tmp_path: Path, content: bytes
    ) -> None:
        folder = tmp_path / "volume" / TRIAL
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(content)
        ended = cluster.export("--checkpoints", folder.parent)
        assert ended.exit_code == 1
        assert "safetensors file" in ended.stderr


class TestWrongRequests:
    def test_a_member_of_another_name_lists_the_names(self, cluster: Cluster) -> None:
        ended = cluster.export(member="tiny")
        assert ended.exit_code == 1
        assert "--member: must be one of small, not 'tiny'" in ended.stderr

    def test_a_sweep_without_members_says_so(self, cluster: Cluster) -> None:
        cluster.holds(sweep(status={"family": []}))
        ended = cluster.export()
        assert ended.exit_code == 1
        assert "sweep digits-family has found no member yet" in ended.stderr

    def test_a_folder_that_is_in_use_stays_as_it_is(self, cluster: Cluster) -> None:
        cluster.out.mkdir()
        (cluster.out / "model.safetensors").write_text("another member's")
        ended = cluster.export()
        assert ended.exit_code == 1
        assert "--to: must be a new or empty folder" in ended.stderr
        assert cluster.files() == {"model.safetensors"}

    def test_a_sweep_that_is_not_there_is_kubectls_error(self, cluster: Cluster) -> None:
        cluster.holds({})
        ended = cluster.export()
        assert ended.exit_code == 1
        assert "not found" in ended.stderr

    def test_a_sweep_that_goes_on_warns(self, cluster: Cluster) -> None:
        cluster.holds(sweep(status={"conditions": []}))
        ended = cluster.export()
        assert ended.exit_code == 0, ended.output
        assert "sweep digits-family has not ended: its members may still change" in ended.stderr


def volume_of_claim(folder: Path, annotations: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {
        "persistentvolumeclaim": {"metadata": {"name": "weights"}, "spec": {"volumeName": "pvc-1"}},
        "persistentvolume": {
            "metadata": {"name": "pvc-1", "annotations": annotations},
            "spec": {"hostPath": {"path": str(folder)}},
        },
    }
