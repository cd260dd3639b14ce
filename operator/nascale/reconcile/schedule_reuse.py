"""``reuseProfileFrom``: measurements of another training, where model, device and libraries are the same.

What is taken over is kept in the training's own status: from then on the other one may change or go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from nascale.api.architecture_search import ParameterSetting
from nascale.api.generated_schedule import LONGEST_LEFT_OUT, TakenMeasurement
from nascale.api.generation import MAX_PROFILE_TRIALS
from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.resource import Condition
from nascale.api.training import FidelityLevel
from nascale.api.trial import DeviceUsed, TrialOutcome, TrialPurpose, TrialStatus
from nascale.contract.document import describe
from nascale.progressive.generation.grid import make_grid
from nascale.progressive.generation.problem import GenerationProblem, ProfileRecord
from nascale.reconcile.conditions import TrialCondition, assertion, shortened, updated
from nascale.reconcile.observed import Related
from nascale.reconcile.schedule_trials import profile_record, profile_records, reason_of
from nascale.reconcile.snapshot import TrialView, read_children

_USABLE: Final = frozenset({TrialOutcome.SUCCEEDED, TrialOutcome.INFEASIBLE})
_UNKNOWN: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Profile:
    """What is known of the device.

    Attributes:
        records: All measurements, those that were taken over last.
        reused: How many were taken over.
        refusal: Why nothing was; empty: something was, or nothing is asked for.
        awaits_device: Nothing can be taken over before a measurement of one's own has named the device.
        taken: What was taken over, to be kept.
    """

    records: tuple[ProfileRecord, ...]
    reused: int = 0
    refusal: str = ""
    awaits_device: bool = False
    taken: tuple[TakenMeasurement, ...] = ()


def profile_of(
    training: ProgressiveTraining,
    problem: GenerationProblem,
    trials: Sequence[TrialView],
    related: Related,
) -> Profile:
    """Gather the measurements of a training, and those that it takes over.

    Args:
        training: The custom resource.
        problem: What is asked for.
        trials: Its own trials.
        related: The training whose profile it reuses.
    """
    own = tuple(profile_records(problem, trials))
    name = None if training.spec.schedule is None else training.spec.schedule.generate.reuse_profile_from
    if name is None:
        return Profile(own)
    if not any(record.measured for record in own):
        return Profile(own, awaits_device=True)
    kept = () if training.status.generated is None else training.status.generated.taken_over
    if kept:
        return _with_kept(problem, own, kept)
    taken = _of_other(training, name, trials, related)
    return Profile(own, refusal=taken) if isinstance(taken, str) else _with_kept(problem, own, taken)


def _of_other(
    training: ProgressiveTraining, name: str, trials: Sequence[TrialView], related: Related
) -> list[TakenMeasurement] | str:
    """Return the measurements of the other training, or why they say nothing about this one."""
    if related.training is None:
        return f"{name} is no training of this namespace"
    try:
        other = ProgressiveTraining.model_validate(related.training)
    except ValidationError as error:
        return f"{name} can't be read: {describe(error)}"
    theirs = [view for view in read_children(related.trials, (), ()).trials if view.outcome in _USABLE]
    refusal = _refusal(training, other, trials, theirs)
    if refusal:
        return f"{name}: {refusal}"
    return [_taken(view) for view in theirs if view.purpose is TrialPurpose.PROFILE][:MAX_PROFILE_TRIALS]


def _with_kept(
    problem: GenerationProblem, own: tuple[ProfileRecord, ...], taken: Sequence[TakenMeasurement]
) -> Profile:
    """Add the other training's measurements of what is asked for and has not been measured by this one.

    All others are kept too: which ones are needed may change with what is measured meanwhile.
    """
    known = {record.combination.key for record in own}
    usable = {combination.key for combination in make_grid(problem).combinations} - known
    records = [profile_record(problem, _view(entry)) for entry in taken]
    found = [record for record in records if record is not None and record.combination.key in usable]
    return Profile((*own, *found), reused=len(found), taken=tuple(taken))


def _taken(view: TrialView) -> TakenMeasurement:
    return TakenMeasurement(
        trial=view.name,
        outcome=view.outcome or TrialOutcome.SUCCEEDED,
        parameters=tuple(ParameterSetting(name=name, value=value) for name, value in view.parameters),
        metrics=view.status.metrics,
        reason=shortened(reason_of(view), LONGEST_LEFT_OUT) or None,
    )


def _view(entry: TakenMeasurement) -> TrialView:
    """Return a kept measurement as the trial that it was, as far as it counts."""
    return TrialView(
        name=entry.trial,
        uid="",
        resource_version="",
        created=_UNKNOWN,
        index=0,
        candidate=0,
        rung=0,
        lead=0,
        fidelity=FidelityLevel(epochs=0),
        parameters=tuple((own.name, own.value) for own in entry.parameters),
        status=TrialStatus(outcome=entry.outcome, metrics=entry.metrics, conditions=_ended(entry)),
        purpose=TrialPurpose.PROFILE,
    )


def _ended(entry: TakenMeasurement) -> tuple[Condition, ...]:
    """Return what a kept measurement has said of its end."""
    if entry.reason is None:
        return ()
    reason, _, message = entry.reason.partition(": ")
    said = assertion(TrialCondition.ENDED, True, reason, message)
    return updated((), [said], generation=None, now=_UNKNOWN)


def _refusal(
    training: ProgressiveTraining,
    other: ProgressiveTraining,
    own: Sequence[TrialView],
    theirs: Sequence[TrialView],
) -> str:
    """Say why measurements of another training say nothing about this one; empty: they do."""
    ours, others = _subject(training), _subject(other)
    different = [field for field, value in ours.items() if others[field] != value]
    if different:
        return f"must be the same in {', '.join(different)}"
    devices, named = _devices(own), _devices(theirs)
    if not named:
        return "has no measurement that names its device"
    if devices != named:
        return (
            f"must be measured on the same device with the same libraries ({_listed(devices)}), "
            f"not {_listed(named)}"
        )
    return ""


def _subject(training: ProgressiveTraining) -> Mapping[str, Any]:
    """Return all that a step's time depends on beside the device and the settings."""
    spec, pinned = training.spec, training.status.model
    template, hardware = spec.pod_template, spec.defaults.hardware
    return {
        "model": (None if pinned is None else pinned.architecture, spec.model.parameters),
        "spec.trainingData": spec.training_data,
        "spec.optimizer": (spec.optimizer.name, spec.optimizer.average_decay != "0"),
        "spec.podTemplate": (template.image, template.command, template.args, template.resources),
        "spec.placement.resources": spec.placement.resources,
        "spec.defaults.hardware": (
            None
            if hardware is None
            else (
                hardware.workers,
                hardware.processes_per_worker,
                hardware.parallelism,
                hardware.communication_hook,
            )
        ),
    }


def _devices(trials: Sequence[TrialView]) -> frozenset[tuple[str | None, ...]]:
    found = [view.status.device for view in trials if view.status.device is not None]
    return frozenset(_kind(device) for device in found)


def _kind(device: DeviceUsed) -> tuple[str | None, ...]:
    return device.type, device.name, device.software


def _listed(devices: frozenset[tuple[str | None, ...]]) -> str:
    shown = [" ".join(part for part in device if part) for device in devices]
    return "; ".join(sorted(shown)) or "one that is not named"
