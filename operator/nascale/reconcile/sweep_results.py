"""What a sweep has found, as its status shows it: the family, its baselines, drift, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from nascale.api.architecture_search import MetricValue, ParameterSetting
from nascale.api.objectives import Objective
from nascale.api.scaling import Baseline
from nascale.api.scaling_sweep import (
    BaselineFamily,
    PhaseSeconds,
    ReferenceState,
    ScaledMember,
    VectorValue,
)
from nascale.contract.work_order import MetricSource
from nascale.reconcile.conditions import shortened
from nascale.reconcile.decimals import decimal_text, short
from nascale.reconcile.naming import trial_name
from nascale.reconcile.sweep_context import MEASURED_METRICS, SweepContext
from nascale.scaling.engine import Summary
from nascale.scaling.problem import Vector
from nascale.scaling.summary import MemberSummary

LONGEST_SUMMARY: Final = 256
MOST_METRICS: Final = 16
_DIGITS: Final = 6


def found_fields(context: SweepContext, summary: Summary) -> dict[str, Any]:
    """Return the fields of the status that only a trial's end can change."""
    spent, reference = summary.seconds, summary.reference
    return {
        "reused": summary.reused,
        "phase_seconds": PhaseSeconds(
            measuring=round(spent.measuring),
            training=round(spent.training),
            verifying=round(spent.verifying),
            baselines=round(spent.baselines),
        ),
        "vectors": summary.vectors,
        "latency_model_error": _text(summary.latency_model_error),
        "reference": ReferenceState(
            measurements=reference.measurements,
            latency_seconds=_text(reference.latency),
            last_ratio=_text(reference.last_ratio),
            remeasured_pods=reference.remeasured_pods,
            corrected_pods=reference.corrected_pods,
        ),
        "coefficients": None if summary.vector is None else _vector(summary.vector),
        "members": len(summary.members),
        "family": tuple(_member(context, member, with_network=True) for member in summary.members),
        "baselines": tuple(
            BaselineFamily(
                name=Baseline(family.name),
                members=tuple(_member(context, member, with_network=False) for member in family.members),
            )
            for family in summary.baselines
        ),
        "summary": shortened(family_text(context, summary), LONGEST_SUMMARY) or None,
    }


def family_text(context: SweepContext, summary: Summary) -> str:
    """Write a family in a line, for people (``s: accuracy=0.94 latency_p50_seconds=0.0021; m: ...``)."""
    wanted = [entry.metric for entry in _deciding(context)]
    return "; ".join(
        f"{member.name}: "
        + " ".join(f"{metric}={short(member.values[metric])}" for metric in wanted if metric in member.values)
        for member in summary.members
    )


def repeated_members(summary: Summary) -> str:
    """Name the members that are no larger than one before them, and say why; empty: there are none."""
    return "; ".join(
        f"{member.name} is the network of {member.same_as}: none that was trained for it is slower"
        for member in summary.members
        if member.same_as
    )


def missing_members(context: SweepContext, summary: Summary | None) -> tuple[str, ...]:
    """Return the names of the wanted members without a trained network."""
    found = set() if summary is None else {member.name for member in summary.members}
    return tuple(member.name for member in context.sweep.spec.family if member.name not in found)


def member_figures(context: SweepContext, family: tuple[ScaledMember, ...]) -> dict[str, float]:
    """Return latency and quality of each member for the operator's exporter."""
    spec = context.sweep.spec
    names = {"member_quality": spec.quality_objective, "member_latency": spec.latency_objective}
    figures: dict[str, float] = {}
    for member in family:
        values = {entry.name: float(entry.value) for entry in member.metrics}
        for figure, objective in names.items():
            if objective is not None and objective.metric in values:
                figures[f"{figure}/{member.name}"] = values[objective.metric]
    return figures


def _deciding(context: SweepContext) -> list[Objective]:
    """Return quality and latency, in this order."""
    spec = context.sweep.spec
    return [entry for entry in (spec.quality_objective, spec.latency_objective) if entry is not None]


def _member(context: SweepContext, member: MemberSummary, *, with_network: bool) -> ScaledMember:
    multipliers = member.multipliers
    return ScaledMember(
        name=member.name,
        vector=_vector(member.vector),
        depth=decimal_text(multipliers.depth),
        width=decimal_text(multipliers.width),
        resolution=decimal_text(multipliers.resolution),
        compound_coefficient=_rounded(member.coefficient),
        budget_seconds=_rounded(member.budget),
        trial=None if member.trial is None else trial_name(context.prefix, member.trial),
        trainings=member.trainings,
        metrics=_metrics(context, member.values),
        parameters=tuple(
            ParameterSetting(name=name, value=str(size)) for name, size in member.network.parameters
        ),
        architecture=member.network.architecture if with_network else None,
        gain=_text(member.gain),
        taken_from=Baseline(member.taken_from) if member.taken_from else None,
        same_as=member.same_as or None,
    )


def _metrics(context: SweepContext, values: Mapping[str, float]) -> tuple[MetricValue, ...]:
    """Write values down, those of objectives and of measuring pods first: the list is bounded."""
    objectives = {entry.metric: entry for entry in context.objectives}
    first = [name for name in (*objectives, *MEASURED_METRICS) if name in values]
    names = list(dict.fromkeys([*first, *sorted(values)]))[:MOST_METRICS]
    return tuple(
        MetricValue(
            name=name,
            value=decimal_text(values[name]),
            source=objectives[name].source if name in objectives else MetricSource.REPORT,
        )
        for name in names
    )


def _vector(vector: Vector) -> VectorValue:
    depth, width, resolution = (
        math.log(factor) for factor in (vector.depth, vector.width, vector.resolution)
    )
    return VectorValue(
        depth=_rounded(vector.depth),
        width=_rounded(vector.width),
        resolution=_rounded(vector.resolution),
        width_per_depth=_rounded(width / depth) if depth > 0 else None,
        resolution_per_depth=_rounded(resolution / depth) if depth > 0 else None,
    )


def _rounded(value: float) -> str:
    return decimal_text(float(f"{value:.{_DIGITS}g}"))


def _text(value: float | None) -> str | None:
    return None if value is None or not math.isfinite(value) else _rounded(value)
