"""The CustomResourceDefinitions: names, printer columns and schemas of the kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from nascale.api import names
from nascale.api.architecture_search import (
    KIND as SEARCH_KIND,
)
from nascale.api.architecture_search import (
    ArchitectureSearch,
    ArchitectureSearchSpec,
    ArchitectureSearchStatus,
)
from nascale.api.progressive_training import KIND as TRAINING_KIND
from nascale.api.progressive_training import ProgressiveTraining, ProgressiveTrainingSpec
from nascale.api.resource import ApiModel
from nascale.api.scaling_sweep import KIND as SWEEP_KIND
from nascale.api.scaling_sweep import ScalingSweep, ScalingSweepSpec, ScalingSweepStatus
from nascale.api.structural_schema import Schema, structural_schema
from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.api.trial import KIND as TRIAL_KIND
from nascale.api.trial import Trial, TrialSpec, TrialStatus


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; those of priority 1 show with ``-o wide`` only."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False
    format: str | None = None

    def to_schema(self) -> dict[str, Any]:
        """Return the entry of ``additionalPrinterColumns``."""
        entry: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        if self.format is not None:
            entry["format"] = self.format
        if self.wide:
            entry["priority"] = 1
        return entry


@dataclass(frozen=True)
class Kind:
    """What makes one CustomResourceDefinition."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    model: type[ApiModel]
    spec: type[ApiModel]
    status: type[ApiModel]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the CustomResourceDefinition."""
        return f"{self.plural}.{names.GROUP}"

    @property
    def file_name(self) -> str:
        """Name of its file in ``crds/``."""
        return f"{names.GROUP}_{self.plural}.yaml"


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date")

KINDS: Final[tuple[Kind, ...]] = (
    Kind(
        kind=SEARCH_KIND,
        plural="architecturesearches",
        short_names=("nas",),
        model=ArchitectureSearch,
        spec=ArchitectureSearchSpec,
        status=ArchitectureSearchStatus,
        columns=(
            Column(
                "State",
                '.status.conditions[?(@.type=="Progressing")].reason',
                "What the search does, or why it ended: reason of the condition Progressing.",
            ),
            Column(
                "Succeeded",
                '.status.conditions[?(@.type=="Succeeded")].status',
                "Whether it has ended with a base network.",
            ),
            Column("Finished", ".status.finished", "Trials that have ended.", type="integer"),
            Column("Max", ".spec.budget.maxTrials", "Trials in all.", type="integer"),
            Column("Front", ".status.frontSize", "Points of the Pareto front.", type="integer"),
            Column("Best", ".status.best", "Best value of each objective so far."),
            _AGE,
            Column("Running", ".status.trials.running", "Trials that run.", type="integer", wide=True),
            Column("Failed", ".status.trials.failed", "Trials that failed.", type="integer", wide=True),
            Column("Hypervolume", ".status.hypervolume", "Hypervolume of the front.", wide=True),
            Column(
                "Remaining",
                ".status.estimatedRemainingSeconds",
                "Estimate of the time to the end, seconds.",
                type="integer",
                wide=True,
            ),
            Column("Algorithm", ".spec.algorithm.name", "Sampler.", wide=True),
            Column("Base", ".status.baseNetwork.trial", "Trial of the base network.", wide=True),
        ),
    ),
    Kind(
        kind=SWEEP_KIND,
        plural="scalingsweeps",
        short_names=("sweep",),
        model=ScalingSweep,
        spec=ScalingSweepSpec,
        status=ScalingSweepStatus,
        columns=(
            Column(
                "State",
                '.status.conditions[?(@.type=="Progressing")].reason',
                "What the sweep does, or why it ended: reason of the condition Progressing.",
            ),
            Column(
                "Succeeded",
                '.status.conditions[?(@.type=="Succeeded")].status',
                "Whether it has ended with a family.",
            ),
            Column("Finished", ".status.finished", "Trials that have ended.", type="integer"),
            Column("Members", ".status.members", "Members of the family found so far.", type="integer"),
            Column("Family", ".status.summary", "The members with their values."),
            _AGE,
            Column(
                "DeviceSeconds",
                ".status.deviceSeconds",
                "Time that pods held their devices, seconds.",
                type="integer",
                wide=True,
            ),
            Column("Mode", ".spec.coefficients.mode", "How far one vector reaches.", wide=True),
            Column("Base", ".spec.base.searchName", "Search that found the base network.", wide=True),
        ),
    ),
    Kind(
        kind=TRAINING_KIND,
        plural="progressivetrainings",
        short_names=("ptrain",),
        model=ProgressiveTraining,
        spec=ProgressiveTrainingSpec,
        status=ProgressiveTrainingStatus,
        columns=(
            Column(
                "State",
                '.status.conditions[?(@.type=="Progressing")].reason',
                "What the training does, or why it ended: reason of the condition Progressing.",
            ),
            Column("Stage", ".status.currentStage", "Stage that is trained now, or was last."),
            Column("Progress", ".status.progressPercentage", "Trained share, percent.", type="integer"),
            Column(
                "Remaining",
                ".status.estimatedRemainingSeconds",
                "Estimate of the time to the end, seconds.",
                type="integer",
            ),
            Column("Quality", ".status.summary", "Last accuracy, or loss."),
            _AGE,
            Column(
                "Succeeded",
                '.status.conditions[?(@.type=="Succeeded")].status',
                "Whether it has ended with a trained model.",
                wide=True,
            ),
            Column("Loss", ".status.loss", "Training loss of the last steps.", wide=True),
            Column("Throughput", ".status.throughput", "Samples per second.", wide=True),
            Column("Step", ".status.stepP50Seconds", "Median step of the stage, seconds.", wide=True),
            Column("Workers", ".status.workers", "Pods.", type="integer", wide=True),
            Column("Run", ".status.runGeneration", "Number of its Job.", type="integer", wide=True),
            Column(
                "Plan", ".status.generated.plan", "Number of the generated plan.", type="integer", wide=True
            ),
            Column("Lost", ".status.lostSteps", "Steps done again after a crash.", type="integer", wide=True),
        ),
    ),
    Kind(
        kind=TRIAL_KIND,
        plural="trials",
        short_names=("nast",),
        model=Trial,
        spec=TrialSpec,
        status=TrialStatus,
        columns=(
            Column(
                "Owner", ".metadata.ownerReferences[0].name", "Search, sweep or training that asked for it."
            ),
            Column("Index", ".spec.index", "Position in the search or sweep.", type="integer"),
            Column("Rung", ".spec.rung", "Fidelity, from cheap to full.", type="integer"),
            Column("Outcome", ".status.outcome", "How it ended."),
            Column("Metrics", ".status.summary", "Values of the objectives."),
            _AGE,
            Column(
                "Candidate", ".spec.candidate", "First trial of its candidate.", type="integer", wide=True
            ),
            Column("Origin", ".spec.origin", "What proposed it.", wide=True),
            Column("Purpose", ".spec.purpose", "What a trial of a sweep or training is for.", wide=True),
            Column("Member", ".spec.member", "Member of a sweep's family that it is for.", wide=True),
            Column("Attempt", ".status.attempt", "Runs after the first one.", type="integer", wide=True),
            Column("Seconds", ".status.deviceSeconds", "Time on the device.", type="integer", wide=True),
            Column("Pod", ".status.podName", "Pod of the latest attempt.", wide=True),
        ),
        selectable=(".spec.rung", ".status.outcome"),
    ),
)


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """Return the CustomResourceDefinition of a kind."""
    version: dict[str, Any] = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [column.to_schema() for column in kind.columns],
    }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    version["schema"] = {"openAPIV3Schema": _resource_schema(kind)}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": kind.name,
            "labels": {names.LABEL_APP_NAME: "nascale"},
        },
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": list(kind.short_names),
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def _resource_schema(kind: Kind) -> Schema:
    """Put spec and status into a resource; metadata is the API server's own business."""
    whole = kind.model.model_json_schema(by_alias=True)
    spec = structural_schema(kind.spec)
    # What stands at the field ``spec`` itself (immutability, say) goes with the part's own rules.
    beside = whole["properties"]["spec"].get("x-kubernetes-validations", [])
    if beside:
        spec["x-kubernetes-validations"] = [*spec.get("x-kubernetes-validations", []), *beside]
    schema: Schema = {
        "description": " ".join(whole["description"].split()),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Version of the API: nascale.io/v1alpha1.", "type": "string"},
            "kind": {"description": f"Kind of the object: {kind.kind}.", "type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": structural_schema(kind.status, defaults=False),
        },
    }
    if kind.model.rules:
        schema["x-kubernetes-validations"] = [rule.to_schema() for rule in kind.model.rules]
    return schema
