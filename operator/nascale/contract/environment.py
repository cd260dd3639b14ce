"""Names that a trial's container finds in its environment."""

from __future__ import annotations

from typing import Final

WORK_ORDER: Final = "NASCALE_WORK_ORDER"
"""The work order itself, as JSON text."""

WORK_ORDER_FILE: Final = "NASCALE_WORK_ORDER_FILE"
"""A file that holds the work order, where it is too large for the environment. One of the two is set."""

TERMINATION_LOG: Final = "NASCALE_TERMINATION_LOG"
"""The file that the report is written to: the container's ``terminationMessagePath``."""

DEFAULT_TERMINATION_LOG: Final = "/dev/termination-log"
"""Kubernetes' own default path for termination messages."""

BIND_ADDRESS: Final = "NASCALE_BIND_ADDRESS"
"""The address on which ``/metrics`` is served: the pod's own (``status.podIP``)."""

METRICS_PORT: Final = "NASCALE_METRICS_PORT"
"""The port on which ``/metrics`` is served."""

DEFAULT_METRICS_PORT: Final = 9464
"""The port that trials serve ``/metrics`` on (OpenTelemetry's conventional exporter port)."""

POD_NAME: Final = "NASCALE_POD_NAME"
POD_NAMESPACE: Final = "NASCALE_POD_NAMESPACE"

CHECKPOINT_DIRECTORY: Final = "NASCALE_CHECKPOINT_DIRECTORY"
"""A folder that outlives the pod, for checkpoints and exact results; unset where there is none."""

RUN_DIRECTORY: Final = "NASCALE_RUN_DIRECTORY"
"""A training's folder on the run's volume, which all its pods mount."""

DESIRED_STATE_FILE: Final = "NASCALE_DESIRED_STATE_FILE"
"""The file in which the pod's annotation with the desired state appears (downward API)."""

WORKER_INDEX: Final = "JOB_COMPLETION_INDEX"
"""Place of a pod among the workers of its generation; Kubernetes sets it in Indexed Jobs."""
