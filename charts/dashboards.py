"""Writes the Grafana dashboards that the chart ships: ``python charts/dashboards.py [--check]``.

One function a dashboard, one call a panel. Each panel has a title, a description, a unit and thresholds;
queries name only series that the code exports (tests look). Variables: data source, namespace, object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as board
from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

FOLDER: Final = Path(__file__).parent / "nascale" / "files" / "dashboards"
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
COLOURS: Final = ("green", "orange", "red")
HEIGHT: Final = 8
WIDTH: Final = 12


@dataclass(frozen=True)
class Query:
    """One PromQL expression of a panel, and how its series are called."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: What it shows.
        description: How to read it, and when to worry.
        unit: Grafana's name of the unit.
        queries: What is drawn.
        steps: Values at which its colour changes from green to orange to red; empty: it stays green.
        single: Whether it is one number instead of a curve.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    steps: Sequence[float] = ()
    single: bool = False


def _built(panel: Panel) -> Any:
    builder = stat.Panel() if panel.single else timeseries.Panel()
    limits = [None, *panel.steps]
    steps = [Threshold(value=value, color=COLOURS[place]) for place, value in enumerate(limits)]
    builder.title(panel.title).description(panel.description).unit(panel.unit).datasource(SOURCE)
    builder.thresholds(board.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    builder.span(WIDTH // 2 if panel.single else WIDTH).height(HEIGHT // 2 if panel.single else HEIGHT)
    for place, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        builder.with_target(target.ref_id(chr(ord("A") + place)).datasource(SOURCE))
    return builder


def _variable(name: str, label: str, query: str) -> Any:
    variable = board.QueryVariable(name).label(label).description(f"Restricts the panels by {label}.")
    variable.query(query).datasource(SOURCE).refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    return variable.sort(VariableSort.ALPHABETICAL_ASC).include_all(include_all=True).multi(multi=True)


def _dashboard(
    uid: str, title: str, description: str, variables: Sequence[Any], rows: dict[str, Sequence[Panel]]
) -> Any:
    result = board.Dashboard(title).uid(f"nascale-{uid}").description(description).tags(["nascale"])
    result.time("now-6h", "now").refresh("30s").timezone("browser").readonly()
    source = board.DatasourceVariable("datasource").label("data source").type("prometheus")
    result.with_variable(source.description("The Prometheus that is asked."))
    for variable in variables:
        result.with_variable(variable)
    for row, panels in rows.items():
        result.with_row(board.Row(row))
        for panel in panels:
            result.with_panel(_built(panel))
    return result.build()


def fleet() -> Any:
    """What a platform engineer looks at: the operator, the queue, trials by outcome, devices' time."""
    namespace = _variable("namespace", "namespace", "label_values(nascale_search_trials, namespace)")
    chosen = 'namespace=~"$namespace"'
    return _dashboard(
        "fleet",
        "nascale / Fleet",
        "Whether the operator works, what it does, and which devices its pods take.",
        [namespace],
        {
            "Operator": [
                Panel(
                    "Active operators",
                    "Must be 1. 0: nobody holds the Lease, or the operator is not scraped.",
                    "none",
                    [Query("sum(nascale_leader)", "active")],
                    (),
                    single=True,
                ),
                Panel(
                    "Objects that wait",
                    "Objects that are due for a reconcile. It should return to 0.",
                    "none",
                    [Query("sum(nascale_queue_depth)", "waiting")],
                    (20, 200),
                    single=True,
                ),
                Panel(
                    "Reconciles that fail",
                    "Forbidden, Invalid, ForeignObject and Bug need a person; the others heal by themselves.",
                    "cps",
                    [Query("sum by (reason) (rate(nascale_reconcile_errors_total[5m]))", "{{reason}}")],
                    (0.01, 0.1),
                ),
                Panel(
                    "Time of a reconcile",
                    "Median and 99th percentile by kind. Samplers take most of it.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.5, sum by (le, kind) "
                            "(rate(nascale_reconcile_duration_seconds_bucket[5m])))",
                            "{{kind}} p50",
                        ),
                        Query(
                            "histogram_quantile(0.99, sum by (le, kind) "
                            "(rate(nascale_reconcile_duration_seconds_bucket[5m])))",
                            "{{kind}} p99",
                        ),
                    ],
                    (5, 30),
                ),
                Panel(
                    "Requests to the API server",
                    "By verb and answer. Many 409 or 429 are worth a look.",
                    "reqps",
                    [
                        Query(
                            "sum by (verb, code) (rate(nascale_api_requests_total[5m]))", "{{verb}} {{code}}"
                        )
                    ],
                    (20, 100),
                ),
            ],
            "Trials": [
                Panel(
                    "Trials by state",
                    "All searches of the chosen namespaces.",
                    "none",
                    [Query(f"sum by (state) (nascale_search_trials{{{chosen}}})", "{{state}}")],
                ),
                Panel(
                    "Trials that end",
                    "By outcome. Failed and MetricsUnavailable are the ones to look at.",
                    "cps",
                    [Query("sum by (outcome) (rate(nascale_trials_finished_total[15m]))", "{{outcome}}")],
                ),
                Panel(
                    "Wait for a container",
                    "Nine of ten trials start within this time: queues, image pulls, scheduling.",
                    "s",
                    [
                        Query(
                            "histogram_quantile(0.9, sum by (le) "
                            "(rate(nascale_trial_wait_seconds_bucket[1h])))",
                            "p90",
                        )
                    ],
                    (60, 900),
                ),
                Panel(
                    "Values not from Prometheus",
                    "Values that were taken from reports instead. It should be 0 with a Prometheus.",
                    "none",
                    [
                        Query(
                            "sum by (reason) (increase(nascale_prometheus_fallbacks_total[15m]))",
                            "{{reason}}",
                        )
                    ],
                    (1, 10),
                ),
            ],
            "Devices": [
                Panel(
                    "Devices held",
                    "Devices that searches, sweeps and trainings hold on average, by namespace.",
                    "none",
                    [
                        Query(
                            f"sum by (namespace) (rate(nascale_{kind}_device_seconds{{{chosen}}}[15m]))",
                            legend,
                        )
                        for kind, legend in (
                            ("search", "searches {{namespace}}"),
                            ("sweep", "sweeps {{namespace}}"),
                            ("training", "trainings {{namespace}}"),
                        )
                    ],
                ),
            ],
        },
    )


def search() -> Any:
    """What a search has found so far."""
    chosen = 'namespace=~"$namespace", search=~"$search"'
    variables = [
        _variable("namespace", "namespace", "label_values(nascale_search_trials, namespace)"),
        _variable("search", "search", 'label_values(nascale_search_trials{namespace=~"$namespace"}, search)'),
    ]
    trial = 'namespace=~"$namespace", nascale_io_search=~"$search"'
    return _dashboard(
        "search",
        "nascale / Search",
        "An architecture search: progress, Pareto front, hypervolume, cost.",
        variables,
        {
            "Progress": [
                Panel(
                    "Trials by state",
                    "How far the search is, and how its trials end.",
                    "none",
                    [Query(f"nascale_search_trials{{{chosen}}}", "{{search}} {{state}}")],
                ),
                Panel(
                    "Hypervolume",
                    "Of the front in scaled objectives, 0 to 1. Flat for long: more trials help little.",
                    "percentunit",
                    [Query(f"nascale_search_hypervolume{{{chosen}}}", "{{search}}")],
                ),
                Panel(
                    "Trials on the front",
                    "Networks that no other one beats in all objectives.",
                    "none",
                    [Query(f"nascale_search_pareto_size{{{chosen}}}", "{{search}}")],
                ),
                Panel(
                    "Device-seconds",
                    "Time for which the search's pods have held devices.",
                    "s",
                    [Query(f"nascale_search_device_seconds{{{chosen}}}", "{{search}}")],
                ),
            ],
            "Values": [
                Panel(
                    "Best values",
                    "The best of each objective on the front, in the objective's own unit.",
                    "short",
                    [Query(f"nascale_search_best_objective{{{chosen}}}", "{{search}} {{metric}}")],
                ),
                Panel(
                    "Accuracy of trials",
                    "Final accuracy of the trial that ended last. Beside the latencies: the cloud that the "
                    "front is taken from.",
                    "percentunit",
                    [Query(f'nascale_search_latest_objective{{{chosen}, metric="accuracy"}}', "{{search}}")],
                ),
                Panel(
                    "Latency of trials",
                    "Median latency of each trial on the target's hardware while its pod is there.",
                    "s",
                    [Query(f'nascale_trial_metric{{{trial}, metric="latency_p50_seconds"}}', "{{trial}}")],
                ),
                Panel(
                    "Training loss of running trials",
                    "Mean of the last epoch. NaN or a rising curve: the trial will fail or end early.",
                    "short",
                    [Query(f"nascale_trial_training_loss{{{trial}}}", "{{trial}}")],
                ),
            ],
        },
    )


def scaling() -> Any:
    """What a sweep's family looks like."""
    chosen = 'namespace=~"$namespace", sweep=~"$sweep"'
    variables = [
        _variable("namespace", "namespace", "label_values(nascale_sweep_trials, namespace)"),
        _variable("sweep", "sweep", 'label_values(nascale_sweep_trials{namespace=~"$namespace"}, sweep)'),
    ]
    return _dashboard(
        "scaling",
        "nascale / Scaling",
        "A scaling sweep: the family's latency and quality, errors of predictions, drift of the target.",
        variables,
        {
            "Family": [
                Panel(
                    "Latency of members",
                    "Measured: the metric that each member's budget bounds.",
                    "s",
                    [Query(f"nascale_sweep_member_latency_seconds{{{chosen}}}", "{{sweep}} {{member}}")],
                ),
                Panel(
                    "Quality of members",
                    "In the objective's own unit. It should grow with the latency.",
                    "short",
                    [Query(f"nascale_sweep_member_quality{{{chosen}}}", "{{sweep}} {{member}}")],
                ),
                Panel(
                    "Quality per second of latency",
                    "What a member gives for its time: large members give less.",
                    "short",
                    [
                        Query(
                            f"nascale_sweep_member_quality{{{chosen}}} "
                            f"/ nascale_sweep_member_latency_seconds{{{chosen}}}",
                            "{{sweep}} {{member}}",
                        )
                    ],
                ),
            ],
            "Measuring": [
                Panel(
                    "Error of the latency model",
                    "Median relative error of predictions that were made before their measurement.",
                    "percentunit",
                    [Query(f"nascale_sweep_latency_model_error{{{chosen}}}", "{{sweep}}")],
                    (0.1, 0.25),
                ),
                Panel(
                    "Drift of the target",
                    "Latency of the reference network against its median. Far from 0: the device is shared.",
                    "percentunit",
                    [Query(f"nascale_sweep_reference_drift{{{chosen}}}", "{{sweep}}")],
                    (0.05, 0.15),
                ),
                Panel(
                    "Trials by state",
                    "How far the sweep is.",
                    "none",
                    [Query(f"nascale_sweep_trials{{{chosen}}}", "{{sweep}} {{state}}")],
                ),
                Panel(
                    "Device-seconds by phase",
                    "What the devices' time is spent on.",
                    "s",
                    [Query(f"nascale_sweep_device_seconds{{{chosen}}}", "{{sweep}} {{phase}}")],
                ),
            ],
        },
    )


def training() -> Any:
    """How a training goes."""
    own = 'namespace=~"$namespace", nascale_io_training=~"$training"'
    known = 'namespace=~"$namespace", training=~"$training"'
    pods = "* on (namespace, pod) group_left () (0 * nascale_training_stage{" + own + "} + 1)"
    variables = [
        _variable("namespace", "namespace", "label_values(nascale_training_progress_ratio, namespace)"),
        _variable(
            "training",
            "training",
            'label_values(nascale_training_progress_ratio{namespace=~"$namespace"}, training)',
        ),
    ]
    return _dashboard(
        "training",
        "nascale / Training",
        "A progressive training: stages, throughput, step time, loss, settings in force, devices.",
        variables,
        {
            "Progress": [
                Panel(
                    "Stage",
                    "Place in the schedule, from 0: the bands behind the curves below.",
                    "none",
                    [Query(f"nascale_training_stage{{{own}}}", "{{nascale_io_training}}")],
                ),
                Panel(
                    "Throughput",
                    "Samples per second. It changes at stage switches; within a stage it should be even.",
                    "cps",
                    [Query(f"nascale_training_samples_per_second{{{own}}}", "{{nascale_io_training}}")],
                ),
                Panel(
                    "Loss",
                    "Mean of the last steps.",
                    "short",
                    [Query(f"nascale_training_loss{{{own}}}", "{{nascale_io_training}}")],
                ),
                Panel(
                    "Evaluation",
                    "Metrics of the last evaluation, for example the accuracy.",
                    "short",
                    [Query(f"nascale_training_metric{{{own}}}", "{{nascale_io_training}} {{metric}}")],
                ),
                Panel(
                    "Step time",
                    "Median and 99th percentile of the present stage's steps.",
                    "s",
                    [
                        Query(
                            f"nascale_training_step_seconds{{{own}}}", "{{nascale_io_training}} q{{quantile}}"
                        )
                    ],
                ),
                Panel(
                    "Time to the end",
                    "At each stage's measured or last known throughput.",
                    "s",
                    [Query(f"nascale_training_remaining_seconds{{{own}}}", "{{nascale_io_training}}")],
                ),
            ],
            "Settings in force": [
                Panel(
                    "Precision and layout",
                    "One line for each combination of settings, by its stage.",
                    "none",
                    [
                        Query(
                            f"nascale_training_stage_info{{{own}}}",
                            "{{stage}}: {{precision}} {{memory_format}} {{compilation}} {{parallelism}}",
                        )
                    ],
                ),
                Panel(
                    "Resolution and batch",
                    "Numbers that stages change.",
                    "none",
                    [
                        Query(
                            f'nascale_training_setting{{{own}, setting=~"resolution|global_batch|depth"}}',
                            "{{setting}}",
                        )
                    ],
                ),
                Panel(
                    "Cost of switches",
                    "By stage, class and phase: what a switch into the stage has cost.",
                    "s",
                    [Query(f"nascale_training_switch_seconds{{{own}}}", "{{stage}} {{class}} {{phase}}")],
                    (60, 600),
                ),
                Panel(
                    "Wanted and followed revision",
                    "Apart for long: the pods refuse or do not see what is wanted.",
                    "none",
                    [
                        Query(f"nascale_training_desired_revision{{{known}}}", "{{training}} wanted"),
                        Query(f"nascale_training_known_applied_revision{{{known}}}", "{{training}} followed"),
                    ],
                ),
                Panel(
                    "Age of the newest checkpoint",
                    "What a crash would cost.",
                    "s",
                    [
                        Query(
                            f"time() - nascale_training_checkpoint_last_success_timestamp_seconds{{{own}}}",
                            "{{nascale_io_training}}",
                        )
                    ],
                    (1800, 3600),
                ),
                Panel(
                    "Peak memory",
                    "The most that the device held in the present stage.",
                    "bytes",
                    [Query(f"nascale_training_peak_memory_bytes{{{own}}}", "{{nascale_io_training}}")],
                ),
            ],
            "Devices (DCGM)": [
                Panel(
                    "Tensor cores",
                    "Share of time in which tensor cores work. Low in 16 bits: the input is too slow.",
                    "percentunit",
                    [Query(f"avg by (namespace, pod) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE) {pods}", "{{pod}}")],
                ),
                Panel(
                    "Memory traffic",
                    "Share of time in which the device's memory is read or written.",
                    "percentunit",
                    [Query(f"avg by (namespace, pod) (DCGM_FI_PROF_DRAM_ACTIVE) {pods}", "{{pod}}")],
                ),
                Panel(
                    "Power",
                    "Sum over the pod's devices.",
                    "watt",
                    [Query(f"sum by (namespace, pod) (DCGM_FI_DEV_POWER_USAGE) {pods}", "{{pod}}")],
                ),
            ],
        },
    )


DASHBOARDS: Final = {"fleet": fleet, "search": search, "scaling": scaling, "training": training}


def render(name: str) -> str:
    """Return a dashboard's JSON text."""
    return JSONEncoder(sort_keys=True, indent=1).encode(DASHBOARDS[name]()) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write all dashboards; with ``--check`` only say which of them would change."""
    stale = [
        name
        for name in DASHBOARDS
        if not (FOLDER / f"{name}.json").exists() or (FOLDER / f"{name}.json").read_text() != render(name)
    ]
    if "--check" in arguments:
        print(json.dumps({"stale": stale}))
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / f"{name}.json").write_text(render(name))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
