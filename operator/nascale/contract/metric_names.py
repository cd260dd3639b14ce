"""Names of the metrics that trials report and export.

A *metric* is what an objective names (``accuracy``); a *series* is what Prometheus stores
(``nascale_trial_metric{metric="accuracy"}``). The built-in trainer reports every metric of
``BUILT_IN``; a user's container reports what it likes, under names of the pattern ``METRIC_PATTERN``.
"""

from __future__ import annotations

from typing import Final

METRIC_PATTERN: Final = r"^[a-z][a-z0-9_]{0,47}$"

ACCURACY: Final = "accuracy"
"""Top-1 accuracy on the validation part, ratio 0 to 1."""
LOSS: Final = "loss"
"""Cross-entropy on the validation part, nats."""
LATENCY_P50: Final = "latency_p50_seconds"
LATENCY_P90: Final = "latency_p90_seconds"
LATENCY_P99: Final = "latency_p99_seconds"
"""Quantiles of one forward pass at the target's batch size. p99 only from 1,000 calls on."""
THROUGHPUT: Final = "throughput_samples_per_second"
"""Samples per second at inference, at the target's batch size."""
TRAINING_THROUGHPUT: Final = "training_samples_per_second"
PARAMETERS: Final = "parameters"
"""Count of trainable parameters."""
FLOPS: Final = "flops"
"""Multiply-adds of one forward pass of one sample (the field's convention for FLOPs)."""
PEAK_MEMORY: Final = "peak_memory_bytes"
"""The highest memory that the device (on a CPU: the process) held."""
TRAINING_SECONDS: Final = "training_seconds"

BUILT_IN: Final[frozenset[str]] = frozenset(
    {
        ACCURACY,
        LOSS,
        LATENCY_P50,
        LATENCY_P90,
        LATENCY_P99,
        THROUGHPUT,
        TRAINING_THROUGHPUT,
        PARAMETERS,
        FLOPS,
        PEAK_MEMORY,
        TRAINING_SECONDS,
    }
)
"""What the built-in trainer reports. All are zero or greater."""

LATENCIES: Final[frozenset[str]] = frozenset({LATENCY_P50, LATENCY_P90, LATENCY_P99})
"""The metrics that a latency budget can bound."""

MEASURED_BEFORE_TRAINING: Final[frozenset[str]] = frozenset(
    {LATENCY_P50, LATENCY_P90, LATENCY_P99, THROUGHPUT, PARAMETERS, FLOPS}
)
"""Known before the first training step, so that a broken hard constraint costs no training."""

SERIES_TRIAL_METRIC: Final = "nascale_trial_metric"
"""Gauge with labels ``trial`` and ``metric``: the exact final value of each reported metric."""
SERIES_TRIAL_PROGRESS: Final = "nascale_trial_progress_ratio"
"""Gauge with label ``trial``: share of the trial's work that is done, 0 to 1."""
SERIES_TRIAL_STEP_SECONDS: Final = "nascale_trial_step_duration_seconds"
"""Histogram with label ``trial``: wall time of one training step; for dashboards, never for decisions."""
SERIES_TRIAL_TRAINING_LOSS: Final = "nascale_trial_training_loss"
"""Gauge with label ``trial``: the training's loss so far, nats; for dashboards, never for decisions."""
