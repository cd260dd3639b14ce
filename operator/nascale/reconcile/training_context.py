"""What every decision about one progressive training needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from nascale.api import names
from nascale.api.progressive_training import ProgressiveTraining
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.reconcile.actions import SeriesReading
from nascale.reconcile.naming import child_prefix
from nascale.reconcile.observed import Observed, OperatorSettings, SharingNodes
from nascale.reconcile.schedule_problem import with_generated_stages
from nascale.reconcile.snapshot import PodView
from nascale.reconcile.training_figures import Figures, read_figures
from nascale.reconcile.training_generations import Generation, read_generations
from nascale.reconcile.training_model import Model, model_of
from nascale.reconcile.training_progress import RunProgress, follow_generation
from nascale.reconcile.training_validation import spec_faults, spec_stages

NOUN = "training"


@dataclass(frozen=True)
class TrainingContext:
    """One look at a training.

    Attributes:
        settings: The installation's settings.
        now: The clock, whole seconds: the API server's timestamps hold no more.
        training: The custom resource, with the stages that were generated for it in place of its own.
        model: What is trained.
        generations: Its Jobs, by number.
        stages: Stages as the spec wants them; empty where it can't be carried out.
        faults: What is wrong with the spec.
        problems: Why a Job has no pods, by its name.
        readings: What Prometheus last said, by the pod's name.
        sharing_nodes: Nodes that hand out shares of the devices that measuring pods ask for.
    """

    settings: OperatorSettings
    now: datetime
    training: ProgressiveTraining
    model: Model
    generations: Mapping[int, Generation]
    stages: tuple[StageOrder, ...]
    faults: Sequence[str]
    problems: Mapping[str, str]
    readings: Mapping[str, SeriesReading]
    sharing_nodes: SharingNodes

    @property
    def generating(self) -> bool:
        """Whether there is no schedule yet, and one is to be generated."""
        return self.training.spec.schedule is not None and not self.training.spec.stages

    @property
    def prefix(self) -> str:
        """What the names of all children begin with."""
        return child_prefix(self.training.metadata.name, self.training.metadata.uid)

    @property
    def number(self) -> int:
        """Number of the latest generation; 0: there was none.

        A Job of a higher generation than the status knows was made just before the operator crashed.
        """
        return max([self.training.status.run_generation, *self.generations])

    @property
    def generation(self) -> Generation | None:
        """The latest generation; ``None`` where its Job is not there."""
        return self.generations.get(self.number)

    @property
    def order(self) -> RunOrder | None:
        """The run order of the latest generation whose Job can be read."""
        orders = [entry.order for entry in self.generations.values() if entry.order is not None]
        return orders[-1] if orders else None

    @property
    def queue_labels(self) -> dict[str, str]:
        """Kueue's labels, which Jobs take over."""
        labels = self.training.metadata.labels
        return {key: labels[key] for key in (names.LABEL_QUEUE, names.LABEL_PRIORITY_CLASS) if key in labels}

    def progress(self, generation: Generation) -> RunProgress:
        """Say how far a generation has come."""
        return follow_generation(generation, problem=self.problems.get(generation.job.name), now=self.now)

    def reading(self, pod: PodView | None) -> SeriesReading | None:
        """Return what Prometheus last said of a pod; ``None``: not asked yet."""
        return None if pod is None else self.readings.get(pod.name)

    def figures(self, generation: Generation) -> Figures:
        """Return the figures of a running generation, empty where nothing is known."""
        reading = self.reading(generation.leader)
        figures = read_figures(() if reading is None else reading.samples)
        return figures if figures.generation == generation.number else Figures()


def training_context(training: ProgressiveTraining, observed: Observed) -> TrainingContext:
    """Gather what decisions about a training need to know."""
    training = with_generated_stages(training)
    model = model_of(training, observed.related)
    faults = [
        *spec_faults(training, model.pinned, observed.settings),
        *([model.fault] if model.fault else ()),
    ]
    return TrainingContext(
        settings=observed.settings,
        now=observed.now.replace(microsecond=0),
        training=training,
        model=model,
        generations=read_generations(observed.jobs, observed.pods),
        stages=() if faults else spec_stages(training),
        faults=faults,
        problems=observed.job_problems,
        readings=observed.series,
        sharing_nodes=observed.sharing_nodes,
    )
