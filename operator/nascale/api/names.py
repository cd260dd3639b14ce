"""Names that the API server sees: group, labels, annotations, conditions, reasons."""

from __future__ import annotations

from typing import Final

GROUP: Final = "nascale.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "nascale"

# Labels of children. The uid is what counts; the name is for people and for Prometheus.
LABEL_SEARCH: Final = f"{GROUP}/search"
LABEL_SWEEP: Final = f"{GROUP}/sweep"
LABEL_TRAINING: Final = f"{GROUP}/training"
LABEL_OWNER_UID: Final = f"{GROUP}/owner-uid"
LABEL_TRIAL: Final = f"{GROUP}/trial"
"""On a Job and its pod: the first trial that it carries."""
LABEL_ATTEMPT: Final = f"{GROUP}/attempt"
ANNOTATION_TRIALS: Final = f"{GROUP}/trials"
"""On a Job and its pod: names of all trials that it carries, comma-separated."""

LABEL_GENERATION: Final = f"{GROUP}/generation"
"""On a training's Job and its pods: the generation of the run."""
LABEL_COMPLETION_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""On the pods of an Indexed Job, as label and as annotation: the place among the workers, from 0."""
ANNOTATION_DESIRED_STATE: Final = f"{GROUP}/desired-state"
"""On a training's pods: what is wanted of them while they run (contract ``DesiredState``)."""
ANNOTATION_FORMER_STATES: Final = f"{GROUP}/former-states"
"""On a training's pods: desired states before, newest last, as a JSON list."""
ANNOTATION_STAGE: Final = f"{GROUP}/stage"
"""On a training's Job: the stage that its generation begins with."""
ANNOTATION_FELL_BACK: Final = f"{GROUP}/fell-back"
"""On a training's Job: the stage that it trains with the workers of an earlier generation."""

LABEL_APP_NAME: Final = "app.kubernetes.io/name"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
LABEL_PRIORITY_CLASS: Final = "kueue.x-k8s.io/priority-class"

FIELD_MANAGER: Final = "nascale"
TRIAL_CONTAINER: Final = "trial"
"""Name of the one container in a trial's pod."""
TRAINING_CONTAINER: Final = "trainer"
"""Name of the one container in a training's pod."""
METRICS_PORT_NAME: Final = "metrics"
