"""``spec.objectives`` and ``spec.selection``: what is traded off, and how one point is chosen in the end."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from nascale.api.pod_template import BUILT_IN_TRAINER
from nascale.api.resource import ApiModel, DecimalText
from nascale.api.rules import Rule, exactly_one_of
from nascale.contract.metric_names import ACCURACY, BUILT_IN, METRIC_PATTERN
from nascale.contract.work_order import MetricSource

MetricText = Annotated[str, Field(pattern=METRIC_PATTERN, max_length=48)]

BUILT_IN_METRICS = str(sorted(BUILT_IN))
"""CEL: list of the metrics that the built-in trainer reports."""
BUILT_IN_NAMES = ", ".join(sorted(BUILT_IN))


def named(placeholders: str) -> str:
    """Return the regular expression that finds one of these placeholders in a query."""
    return f"[$]({placeholders})([^a-zA-Z0-9_]|$)"


_UNREPORTED = f"(!(o.metric in {BUILT_IN_METRICS}) && !has(o.query))"

EACH_METRIC_ONCE = Rule(
    cel="self.all(o, self.exists_one(other, other.metric == o.metric))",
    message="must have each metric once",
    detail="""'must have each metric once, not again '
        + self.map(o, !self.exists_one(other, other.metric == o.metric), o.metric)[0]""",
)
"""For a list of objectives."""
REPORTED_METRICS = Rule(
    cel=f"!{BUILT_IN_TRAINER} || !self.objectives.exists(o, {_UNREPORTED})",
    message="must have metrics that the built-in trainer reports, or a query",
    detail=f"""'must have metrics that the built-in trainer reports ({BUILT_IN_NAMES})
        or source Prometheus and a query, not '
        + self.objectives.map(o, {_UNREPORTED}, o.metric)[0]""",
    path=".objectives",
)
"""For a spec."""
QUERIES_OF_SHARED_PODS = Rule(
    cel=f"""self.budget.trialsPerPod == 1
        || !self.objectives.exists(o, has(o.query) && !o.query.matches('{named("trial")}'))""",
    message="must have queries that name $trial where trialsPerPod is above 1: trials share a pod",
    path=".objectives",
)
"""For a spec."""


class Direction(StrEnum):
    """Which way is better."""

    MINIMIZE = "Minimize"
    """Less is better."""
    MAXIMIZE = "Maximize"
    """More is better."""


class Enforcement(StrEnum):
    """What a broken bound means."""

    HARD = "Hard"
    """The trial ends as Infeasible, before training where the metric is known by then."""
    SOFT = "Soft"
    """The trial counts, but ranks behind every one that keeps the bound."""


class Constraint(ApiModel):
    """A bound on an objective's metric: exactly one of atMost, atLeast."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("atMost", "atLeast"),)

    at_most: DecimalText | None = None
    """Largest acceptable value, in the metric's unit; for metrics to minimize."""
    at_least: DecimalText | None = None
    """Smallest acceptable value, in the metric's unit; for metrics to maximize."""
    enforcement: Enforcement = Enforcement.HARD


def _figures(check: str, message: str, *, among: str) -> tuple[Rule, ...]:
    """Make one rule for each figure of an objective whose metric is one of a list."""
    given = {
        "goal": "has(self.goal)",
        "constraint.atMost": "has(self.constraint) && has(self.constraint.atMost)",
        "constraint.atLeast": "has(self.constraint) && has(self.constraint.atLeast)",
    }
    return tuple(
        Rule(
            cel=f"!(self.metric in {among}) || !({condition}) || double(self.{name}) {check}",
            message=f"must be {message}",
            detail=f"'must be {message} for ' + self.metric + ', not ' + self.{name}",
            path=f".{name}",
        )
        for name, condition in given.items()
    )


class Objective(ApiModel):
    """One of the quantities that are traded off."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.constraint) || self.direction != 'Minimize' || !has(self.constraint.atLeast)",
            message="must be a constraint atMost where the direction is Minimize, not atLeast",
            detail="""'must be a constraint atMost where the direction is Minimize, not atLeast '
                + self.constraint.atLeast""",
            path=".constraint",
        ),
        Rule(
            cel="!has(self.constraint) || self.direction != 'Maximize' || !has(self.constraint.atMost)",
            message="must be a constraint atLeast where the direction is Maximize, not atMost",
            detail="""'must be a constraint atLeast where the direction is Maximize, not atMost '
                + self.constraint.atMost""",
            path=".constraint",
        ),
        Rule(
            cel="""!has(self.goal) || !has(self.constraint) || !has(self.constraint.atMost)
                || double(self.goal) <= double(self.constraint.atMost)""",
            message="must be at most constraint.atMost",
            detail="'must be at most constraint.atMost (' + self.constraint.atMost + '), not ' + self.goal",
            path=".goal",
        ),
        Rule(
            cel="""!has(self.goal) || !has(self.constraint) || !has(self.constraint.atLeast)
                || double(self.goal) >= double(self.constraint.atLeast)""",
            message="must be at least constraint.atLeast",
            detail="""'must be at least constraint.atLeast (' + self.constraint.atLeast + '), not '
                + self.goal""",
            path=".goal",
        ),
        *_figures(">= 0.0", "0 or greater", among=BUILT_IN_METRICS),
        *_figures("<= 1.0", "at most 1 (a ratio)", among=str([ACCURACY])),
        Rule(
            cel="!has(self.query) || self.source == 'Prometheus'",
            message="must have source Prometheus where query is set",
            detail="'must have source Prometheus where query is set, not ' + self.source",
            path=".source",
        ),
        Rule(
            cel=f"!has(self.query) || self.query.matches('{named('trial|pod')}')",
            message="must name $trial or $pod, so that each trial has a value of its own",
            path=".query",
        ),
    )

    metric: MetricText
    """Name of a metric that trials report, for example accuracy or latency_p50_seconds."""
    direction: Direction
    """Which way is better."""
    goal: DecimalText | None = None
    """Value that is good enough, in the metric's unit: a search ends early once one trial reaches the
    goal of every objective that has one."""
    constraint: Constraint | None = None
    source: MetricSource = MetricSource.REPORT
    """Where the value is read first."""
    query: str | None = Field(default=None, min_length=1, max_length=2048)
    """PromQL that yields one value for a finished trial; $trial, $pod and $namespace are filled in. Only
    with source Prometheus; absent: the trainer's own series."""


class SelectionMethod(StrEnum):
    """How the base network is chosen from the front."""

    KNEE = "Knee"
    """The point farthest from the line (plane) through the front's extremes."""
    BEST_UNDER_CONSTRAINTS = "BestUnderConstraints"
    """The best of the first objective among those that keep every bound."""
    MNASNET = "MnasNet"
    """Largest accuracy * (latency / target) ^ weight (Tan et al., CVPR 2019)."""
    TUNAS = "TuNAS"
    """Largest accuracy + weight * |latency / target - 1| (Bender et al., CVPR 2020)."""


class Scalarisation(ApiModel):
    """Parameters of MnasNet's and TuNAS's reward."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="double(self.target) > 0.0",
            message="must be above 0",
            detail="'must be above 0, not ' + self.target",
            path=".target",
        ),
        Rule(
            cel="double(self.weight) < 0.0",
            message="must be below 0: a higher cost makes a network worse",
            detail="'must be below 0, not ' + self.weight + ': a higher cost makes a network worse'",
            path=".weight",
        ),
    )

    quality_metric: MetricText
    """Metric of an objective to maximize, for example accuracy."""
    cost_metric: MetricText
    """Metric of an objective to minimize, for example latency_p50_seconds."""
    target: DecimalText
    """Cost that is aimed at, in the cost metric's unit, above 0."""
    weight: DecimalText = "-0.07"
    """Exponent (MnasNet) or factor (TuNAS) of the cost, below 0."""


class Selection(ApiModel):
    """How the base network is chosen from the front."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.method in ['MnasNet', 'TuNAS']) == has(self.scalarisation)",
            message="must have scalarisation with method MnasNet or TuNAS, and with no other",
            detail="""'must have scalarisation with method MnasNet or TuNAS, and with no other, not '
                + (has(self.scalarisation) ? 'with ' : 'without it and with ') + self.method""",
        ),
    )

    method: SelectionMethod = SelectionMethod.KNEE
    scalarisation: Scalarisation | None = None
