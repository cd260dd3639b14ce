"""The CRs of examples/ as they are, but for their sizes and for what brings torch into the trainer's pods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import yaml
from tests.e2e import built_images
from tests.e2e.machine import PACKAGES

Json = dict[str, Any]

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
CLAIM: Final = "packages"
MOUNT: Final = "/packages"
_IMAGE_PACKAGES: Final = (
    f"/opt/nascale/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
)
WITH_TORCH: Final = {
    # The image's own packages come first: of the volume, torch and what it brings along are used.
    "env": [{"name": "PYTHONPATH", "value": f"/opt/nascale/source:{_IMAGE_PACKAGES}:{MOUNT}"}],
    "volumes": [
        {
            "name": CLAIM,
            "mountPath": MOUNT,
            "readOnly": True,
            "persistentVolumeClaim": {"claimName": CLAIM},
        }
    ],
}
SMALL_RESOURCES: Final = {
    "requests": {"cpu": "200m", "memory": "256Mi"},
    "limits": {"cpu": 1, "memory": "2Gi"},
}


def documents(prefix: str) -> list[Json]:
    """Return the documents of the one example whose name begins so."""
    (path,) = EXAMPLES.glob(f"{prefix}-*.yaml")
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def search() -> Json:
    """Return the first example with four candidates."""
    (found,) = documents("01")
    spec = found["spec"]
    spec["fidelities"]["levels"] = [{"epochs": 1, "dataFraction": "0.5"}, {"epochs": 2}]
    spec["budget"] |= {"maxTrials": 4, "parallelTrials": 2, "trialDeadlineSeconds": 900}
    spec["measurement"] |= {"minCalls": 50, "minMilliseconds": 100, "maxSpreadRatio": "1"}
    spec["trialTemplate"] = {**WITH_TORCH, "resources": SMALL_RESOURCES}
    return found


def search_on_gpus() -> Json:
    """Return the second example, each of whose pods wants a GPU.

    No image is pulled, and the example needs an awk that knows logarithms, as a static busybox has
    not always: it runs in the operator's image.
    """
    (found,) = documents("02")
    found["spec"]["budget"] |= {"maxTrials": 6, "parallelTrials": 3, "trialDeadlineSeconds": 600}
    template = found["spec"]["trialTemplate"]
    template["image"] = f"{built_images.OPERATOR}:{built_images.TAG}"
    template["resources"]["limits"] = {"nvidia.com/gpu": 1}
    return found


def sweep() -> list[Json]:
    """Return the third example with two members and few vectors, and its claim."""
    claim, found = documents("03")
    spec = found["spec"]
    spec["family"] = [{"name": "small", "latencyMultiple": "1.5"}, {"name": "large", "latencyMultiple": "3"}]
    spec["target"]["resources"] = SMALL_RESOURCES
    spec["baselines"] = ["EfficientNet"]
    spec["exploration"] |= {"vectors": 2, "trainedVectors": 2, "finalists": 1}
    spec["exploration"] |= {"toleranceRatio": "0.5", "driftRatio": "0.5"}
    spec["fidelities"]["levels"] = [{"epochs": 1, "dataFraction": "0.5"}, {"epochs": 2}]
    spec["budget"] |= {"trialDeadlineSeconds": 900}
    spec["measurement"] |= {"minCalls": 50, "minMilliseconds": 100, "maxSpreadRatio": "1"}
    spec["trialTemplate"] |= WITH_TORCH
    return [claim, found]


def training() -> list[Json]:
    """Return the fifth example and its claim: its last stage can be edited while the first one lasts.

    The last stage wants a larger part of a GPU than the others, which another node has.
    """
    claim, found = documents("05")
    spec = found["spec"]
    spec["length"] = "48ep"
    for stage, length in zip(spec["stages"], ("0.7dur", "0.1dur", "0.1dur"), strict=False):
        stage["length"] = length
    spec["placement"]["resources"] = SMALL_RESOURCES
    spec["defaults"]["hardware"]["resources"] = {"nvidia.com/mig-1g.5gb": 1}
    spec["stages"][-1]["hardware"]["resources"] = {"nvidia.com/mig-3g.20gb": 1}
    spec["podTemplate"] |= WITH_TORCH
    return [claim, found]


def volumes(folder: Path) -> list[Json]:
    """Return volumes for the claims of the examples, and volume and claim of the packages.

    What a cluster's storage would bring are folders of the node here. Pod Security looks at a pod's own
    volumes: these are claims.
    """
    claims = {
        document["metadata"]["name"]: document for part in ("03", "05") for document in documents(part)[:1]
    }
    made = [_volume(name, folder / name, claim["spec"]["accessModes"]) for name, claim in claims.items()]
    packages: Json = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": CLAIM},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": CLAIM,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    return [*made, _volume(CLAIM, PACKAGES, ["ReadOnlyMany"]), packages]


def _volume(name: str, path: Path, modes: list[str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": modes,
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    }
