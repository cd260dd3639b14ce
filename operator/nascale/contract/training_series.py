"""Prometheus series of a running training, all served by rank 0's pod.

Labels hold names of bounded sets only: a stage's place in the schedule, an enum's value. Global figures
(steps, samples) go on over generations: a new process takes them from the checkpoint.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "nascale_training_"

STEPS: Final = "nascale_training_steps_total"
"""Counter: optimizer steps of the run so far."""
SAMPLES: Final = "nascale_training_samples_total"
"""Counter: samples of the run so far."""
WHOLE: Final = "nascale_training_length_samples"
"""Gauge: length of the run, samples."""
REMAINING: Final = "nascale_training_remaining_seconds"
"""Gauge: estimated time to the run's end. A later stage counts with the throughput of an earlier one that had
the same settings, where there was one, else with the present one."""
STAGE: Final = "nascale_training_stage"
"""Gauge: place of the present stage in the schedule, from 0."""
STAGE_INFO: Final = "nascale_training_stage_info"
"""Gauge, always 1: the settings in force, as labels (``STAGE_INFO_LABELS``)."""
STAGE_INFO_LABELS: Final = (
    "stage",
    "precision",
    "matmul_precision",
    "compilation",
    "memory_format",
    "gradient_checkpointing",
    "parallelism",
    "communication_hook",
)
SETTING: Final = "nascale_training_setting"
"""Gauge with label ``setting``: each numeric setting in force, by its name in the contract
(``resolution``, ``depth``, ``global_batch``, ``accumulation``, ``micro_batch``, ``world``, ``workers``,
``threads``, ``dropout``, ``learning_rate``, ...)."""
GENERATION: Final = "nascale_training_applied_generation"
"""Gauge: generation of the Job that trains."""
REVISION: Final = "nascale_training_applied_revision"
"""Gauge: revision of the desired state that was last applied."""
REFUSED: Final = "nascale_training_refused_revision"
"""Gauge with label ``reason``: revision of the desired state that was last refused, and why in one word."""
THROUGHPUT: Final = "nascale_training_samples_per_second"
"""Gauge: samples per second over the last steps."""
STEP_SECONDS: Final = "nascale_training_step_duration_seconds"
"""Histogram: wall time of one optimizer step; for dashboards, never for decisions."""
STEP_QUANTILE: Final = "nascale_training_step_seconds"
"""Gauge with label ``quantile`` (0.5, 0.99): exact quantile of the present stage's steps."""
LOSS: Final = "nascale_training_loss"
"""Gauge: training loss, mean of the last steps."""
METRIC: Final = "nascale_training_metric"
"""Gauge with label ``metric``: value of the last evaluation."""
STAGE_VALUE: Final = "nascale_training_stage_value"
"""Gauge with labels ``stage`` (its place) and ``value`` (of ``STAGE_VALUES``, or ``metric:NAME``)."""
STAGE_VALUES: Final = (
    "begin_samples",
    "end_samples",
    "steps",
    "seconds",
    "p50_seconds",
    "p99_seconds",
    "loss",
)
STAGE_BOUND: Final = "nascale_training_stage_bound_samples"
"""Gauge with label ``stage`` (its place): samples of the run at which the schedule ends a stage."""
WAITED: Final = "nascale_training_plateau_waited_evaluations"
"""Gauge: evaluations since the metric of the present stage's plateau last got better by what it asks for;
0: the last one did. Absent where the stage has no plateau, or has been evaluated less than twice."""
SWITCH_SECONDS: Final = "nascale_training_switch_seconds"
"""Gauge with labels ``stage`` (its place), ``class``, ``phase``: what the switch into a stage has cost."""
SWITCHES: Final = "nascale_training_switches_total"
"""Counter with label ``class``."""
CHECKPOINT_SECONDS: Final = "nascale_training_checkpoint_duration_seconds"
"""Gauge: duration of the last checkpoint."""
CHECKPOINT_TIMESTAMP: Final = "nascale_training_checkpoint_last_success_timestamp_seconds"
"""Gauge: when the last checkpoint was committed, seconds since the epoch."""
CHECKPOINT_STEP: Final = "nascale_training_checkpoint_step"
"""Gauge: optimizer steps of the run that the last committed checkpoint holds."""
CHECKPOINT_SAMPLES: Final = "nascale_training_checkpoint_samples"
"""Gauge: samples of the run that it holds."""
DIVERGED_STEP: Final = "nascale_training_diverged_step"
"""Gauge: step at which a loss was last found not to be finite; absent where every one was. A run that has
made more steps than that has recovered."""
NON_FINITE: Final = "nascale_training_nonfinite_losses_total"
"""Counter: losses that were NaN or infinite."""
ROLL_BACKS: Final = "nascale_training_rollbacks_total"
"""Counter: times that such a loss has sent the run back to a checkpoint."""
LOST_STEPS: Final = "nascale_training_lost_steps_total"
"""Counter: steps that had to be done again because a process ended without a checkpoint."""
REPEATED_SAMPLES: Final = "nascale_training_repeated_samples_total"
"""Counter: samples that a checkpoint holds and that were trained again all the same: stays 0."""
DAMAGED_CHECKPOINTS: Final = "nascale_training_damaged_checkpoints_total"
"""Counter: checkpoints that were skipped because they were damaged."""
RECOMPILES: Final = "nascale_training_recompiles_total"
"""Counter: compilations by torch.compile."""
PEAK_MEMORY: Final = "nascale_training_peak_memory_bytes"
"""Gauge: highest memory that the device (on a CPU: the process) held in the present stage."""
