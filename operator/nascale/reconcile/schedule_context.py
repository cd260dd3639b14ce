"""A training whose schedule is generated: what its trials are, and what their pods are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

from nascale.api import names
from nascale.api.generation import Generation
from nascale.api.objectives import Direction, Objective
from nascale.api.progressive_training import KIND, ProgressiveTraining
from nascale.api.trial import TrialPurpose
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import ACCURACY, LOSS, PEAK_MEMORY, TRAINING_SECONDS, TRAINING_THROUGHPUT
from nascale.contract.profile_order import (
    EPOCH_SAMPLES,
    LOSS_DEVIATION,
    SETTLE,
    START,
    STEP_P50,
    STEP_SPREAD,
    ProfileCandidate,
    ProfileOrder,
    ProfileTask,
)
from nascale.contract.report import max_candidates
from nascale.contract.run_order import EvaluationOrder, StageOrder
from nascale.contract.schedule import resolve
from nascale.contract.stage_settings import HardwareSettings
from nascale.contract.work_order import ExporterOrder, MeasurementOrder, MetricSource, RunIdentity
from nascale.progressive.generation.grid import combine
from nascale.progressive.generation.problem import GenerationProblem
from nascale.progressive.settings import parameter_values
from nascale.reconcile.naming import job_name
from nascale.reconcile.objectives import runs_built_in_trainer
from nascale.reconcile.owner_context import OwnerContext, PodGroup
from nascale.reconcile.profiled_training import ProfiledTraining
from nascale.reconcile.schedule_trials import DIGEST, GUARDED, POWER, SCHEDULE, combination_of
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.training_job import RUN_MOUNT, optimizer_order, run_folder
from nascale.reconcile.work_order import data_order
from nascale.search.problem import Direction as Better

MEASURED: Final = (STEP_P50, SETTLE, START, EPOCH_SAMPLES, PEAK_MEMORY)
"""What the report of a measurement must hold."""
_REPORTED: Final = (*MEASURED, STEP_SPREAD, TRAINING_THROUGHPUT, LOSS_DEVIATION)
"""What it may hold: that decides how many measurements fit a report."""
_SHARE_DIGITS: Final = 9

Schedule = tuple[StageOrder, ...]


@dataclass(frozen=True)
class ScheduleContext(OwnerContext):
    """What every decision about the trials of one training needs to know.

    Attributes:
        training: The custom resource.
        profiled: The same as an owner of trials.
        problem: What is asked for.
        candidates: Stages of the candidate schedules, by digest: those that proxies try.
    """

    kind: ClassVar[str] = KIND
    noun: ClassVar[str] = "training"
    label: ClassVar[str] = names.LABEL_TRAINING

    training: ProgressiveTraining
    profiled: ProfiledTraining
    problem: GenerationProblem
    candidates: Mapping[str, Schedule] = field(default_factory=dict)

    @property
    def owner(self) -> ProfiledTraining:
        """The training as an owner of trials."""
        return self.profiled

    @property
    def generation(self) -> Generation:
        """What a schedule is made from.

        Raises:
            ValueError: the training's schedule is not to be generated.
        """
        if self.training.spec.schedule is None:
            raise ValueError("spec.schedule: must be set")
        return self.training.spec.schedule.generate

    @property
    def weighty_trials(self) -> frozenset[str]:
        """None: measurements have no checkpoints."""
        return frozenset()

    @property
    def quality_metric(self) -> str:
        """What proxies are compared by: the floor's metric, otherwise the accuracy or the loss."""
        floor = self.generation.quality_floor
        if floor is not None:
            return floor.metric
        return ACCURACY if runs_built_in_trainer(self.training.spec.pod_template) else LOSS

    @property
    def quality_direction(self) -> Better:
        """Which way that metric is better."""
        floor = self.problem.quality_floor
        if floor is not None:
            return floor.direction
        return Better.MINIMIZE if self.quality_metric == LOSS else Better.MAXIMIZE

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What trials must have values for, the measured ones first."""
        power = () if self._power is None else (self._power,)
        return (Objective(metric=STEP_P50, direction=Direction.MINIMIZE), *power)

    @property
    def _power(self) -> Objective | None:
        query = self.generation.energy_query
        if query is None:
            return None
        return Objective(
            metric=POWER, direction=Direction.MINIMIZE, source=MetricSource.PROMETHEUS, query=query
        )

    def objectives_of(self, trial: TrialView) -> tuple[Objective, ...]:
        """Return the objectives that a trial must have values for."""
        if trial.purpose is TrialPurpose.PROXY:
            direction = Direction(self.quality_direction.value)
            return (Objective(metric=self.quality_metric, direction=direction),)
        return self.objectives

    def knows(self, trial: TrialView) -> bool:
        """Say whether a trial is one that this training gives out."""
        parameters = dict(trial.parameters)
        if trial.purpose is TrialPurpose.PROXY:
            return parameters.get(DIGEST) in self.candidates and SCHEDULE in parameters
        if trial.purpose is not TrialPurpose.PROFILE:
            return False
        return combination_of(self.problem, parameters) is not None

    @property
    def per_pod(self) -> int:
        """Measurements that share a pod: those asked for, as far as the report has room."""
        try:
            most = max_candidates(_REPORTED)
        except ContractError:
            most = 1
        return min(self.generation.profile.trials_per_pod, most)

    def order(self, trials: Sequence[TrialView], attempt: int) -> ProfileOrder:
        """Make the profile order of one pod.

        Raises:
            ValidationError: a field is out of the contract's range.
            ValueError: a trial's parameters are not some of this training's.
        """
        spec, metadata = self.training.spec, self.training.metadata
        proxy = trials[0].purpose is TrialPurpose.PROXY
        pinned, profile = self.training.status.model, self.generation.profile
        workers, processes = (1, 1) if proxy else self._places(trials[0])
        return ProfileOrder(
            run=RunIdentity(kind=KIND, name=metadata.name, namespace=metadata.namespace, uid=metadata.uid),
            attempt=attempt,
            task=ProfileTask.TRAIN_SCHEDULE if proxy else ProfileTask.MEASURE_STEPS,
            candidates=tuple(self._proxy(trial) if proxy else self._measured(trial) for trial in trials),
            workers=workers,
            processes_per_worker=processes,
            metrics=(self.quality_metric, TRAINING_SECONDS) if proxy else MEASURED,
            architecture=None if pinned is None else pinned.architecture,
            parameters=parameter_values(spec.model.parameters or ()),
            data=None if spec.training_data is None else data_order(spec.training_data),
            length=self._length(),
            seed=spec.seed,
            optimizer=optimizer_order(self.training),
            evaluation=EvaluationOrder(every="1dur" if proxy else spec.evaluation.every),
            measurement=MeasurementOrder(
                min_calls=profile.min_steps,
                min_seconds=profile.min_milliseconds / 1000,
                max_spread_ratio=float(profile.max_spread_ratio),
            ),
            reference=None if proxy else self._reference(workers, processes),
            reference_steps=profile.guard_steps,
            exporter=ExporterOrder(max_linger_seconds=spec.metrics_collection.max_linger_seconds),
        )

    def group_of(self, trials: Sequence[TrialView], attempt: int) -> PodGroup | None:
        """Return what the processes of a measurement need to meet, where there are several."""
        if trials[0].purpose is TrialPurpose.PROXY:
            return None
        workers, processes = self._places(trials[0])
        if workers * processes == 1:
            return None
        job = job_name(self.prefix, trials[0].index, attempt)
        return PodGroup(
            workers=workers,
            claim=self.training.spec.volume.claim_name,
            mount=RUN_MOUNT,
            folder=f"{RUN_MOUNT}/{run_folder(self.training)}.profile/{job}",
        )

    def _places(self, trial: TrialView) -> tuple[int, int]:
        found = combination_of(self.problem, dict(trial.parameters))
        return (1, 1) if found is None else places(found.hardware)

    def _reference(self, workers: int, processes: int) -> StageOrder:
        """Return the constant recipe with other workers; accumulation follows where it does."""
        base = self.problem.base
        update = {"workers": workers, "processes_per_worker": processes, "resources": {}}
        hardware = base.hardware.model_copy(update=update)
        found = combine(self.problem, base.model, hardware)
        return base.model_copy(update={"hardware": hardware if found is None else found.hardware})

    def _length(self) -> str:
        proxy = self.generation.proxy
        return "1ep" if proxy is None else proxy.length

    def _measured(self, trial: TrialView) -> ProfileCandidate:
        parameters = dict(trial.parameters)
        found = combination_of(self.problem, parameters)
        if found is None:
            raise ValueError(f"{trial.name}: parameters must be settings of this training")
        hardware = found.hardware.model_copy(update={"resources": {}})
        stage = self.problem.base.model_copy(update={"model": found.model, "hardware": hardware})
        return ProfileCandidate(
            trial=trial.name,
            index=trial.index,
            stages=(stage,),
            guarded=GUARDED in parameters,
            seed=self.training.spec.seed,
        )

    def _proxy(self, trial: TrialView) -> ProfileCandidate:
        stages = self.candidates.get(dict(trial.parameters).get(DIGEST, ""))
        if stages is None:
            raise ValueError(f"{trial.name}: parameters must name a candidate schedule of this training")
        return ProfileCandidate(
            trial=trial.name,
            index=trial.index,
            stages=in_shares(tuple(map(_together, stages)), self.problem.whole),
            seed=self.training.spec.seed,
        )


def places(hardware: HardwareSettings) -> tuple[int, int]:
    """Return workers, and processes of each: measurements that differ in them share no pod."""
    return hardware.workers, hardware.processes_per_worker


def _together(stage: StageOrder) -> StageOrder:
    """Return a stage whose steps one process takes in as many parts as it had processes."""
    accumulation = stage.hardware.accumulation * stage.hardware.world
    alone = {"workers": 1, "processes_per_worker": 1, "resources": {}, "accumulation": accumulation}
    return stage.model_copy(update={"hardware": stage.hardware.model_copy(update=alone)})


def in_shares(stages: Schedule, whole: int) -> Schedule:
    """Return stages whose lengths are shares of the whole, so that they fit another length.

    Args:
        stages: As they are planned for the whole.
        whole: Length that they were planned for, samples.
    """
    ends = resolve(f"{whole}sp", stages, whole)
    found: list[StageOrder] = []
    for place, stage in enumerate(stages):
        share = (ends.ends[place] - ends.begin(place)) / whole
        last = place == len(stages) - 1
        length = None if last else f"{share:.{_SHARE_DIGITS}f}dur"
        found.append(stage.model_copy(update={"length": length}))
    return tuple(found)
