"""``spec.trialTemplate``: the narrow part of a pod that a user may set.

Everything else (security context, service account token, restart policy, ports) is the operator's, so
that whoever may write a search can't start a privileged pod with it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from nascale.api.resource import ApiModel, DnsLabel, Quantity
from nascale.api.rules import Rule, exactly_one_of, guarded

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]

RESERVED_PATHS = (
    "/",
    "/dev/termination-log",
    "/proc",
    "/sys",
    "/nascale",
    "/etc/nascale",
    "/var/run/secrets",
)
"""Mount paths that are the operator's own or the container runtime's, together with what lies below."""

_KEYS_ARE_NAMES = Rule(
    cel="self.all(key, !format.qualifiedName().validate(key).hasValue())",
    message="must have keys that are qualified names, for example example.com/team",
    detail="""'must have keys that are qualified names, for example example.com/team, not '
        + self.map(key, format.qualifiedName().validate(key).hasValue(), key)[0]""",
)
_VALUES_ARE_LABELS = Rule(
    cel="self.all(key, !format.labelValue().validate(self[key]).hasValue())",
    message="must have values of at most 63 letters, digits, '-', '_' and '.'",
    detail="""'must have values of at most 63 letters, digits, "-", "_" and ".", not '
        + self.map(key, format.labelValue().validate(self[key]).hasValue(), self[key])[0]""",
)
_RESERVED_KEY = """(key.startsWith('nascale.io/') || key.startsWith('prometheus.io/')
    || key.matches('^([^/]*[.])?(kubernetes|k8s|nascale)[.]io/'))"""
_NO_RESERVED_LABELS = Rule(
    cel=f"!self.exists(key, {_RESERVED_KEY})",
    message="must not use keys of nascale.io, prometheus.io, kubernetes.io or k8s.io",
    detail=f"""'must not use keys of nascale.io, prometheus.io, kubernetes.io or k8s.io, as in '
        + self.map(key, {_RESERVED_KEY}, key)[0]""",
)
_RESERVED_ANNOTATION = f"({_RESERVED_KEY} && key != 'cluster-autoscaler.kubernetes.io/safe-to-evict')"
_NO_RESERVED_ANNOTATIONS = Rule(
    cel=f"!self.exists(key, {_RESERVED_ANNOTATION})",
    message="must not use keys of nascale.io, prometheus.io, kubernetes.io or k8s.io",
    detail=f"""'must not use keys of nascale.io, prometheus.io, kubernetes.io or k8s.io, as in '
        + self.map(key, {_RESERVED_ANNOTATION}, key)[0]""",
)
_NO_QUANTITY = """(type(self[key]) == int ? self[key] < 0
    : !isQuantity(self[key]) || quantity(self[key]).isLessThan(quantity('0')))"""
_QUANTITIES = Rule(
    cel=f"!self.exists(key, {_NO_QUANTITY})",
    message="must have quantities of zero or more, for example 500m or 4Gi",
    detail=f"""'must have quantities of zero or more, for example 500m or 4Gi, for '
        + self.map(key, {_NO_QUANTITY}, key)[0]""",
)
_EXCESS = """(key in self.limits
    && isQuantity(string(self.requests[key])) && isQuantity(string(self.limits[key]))
    && quantity(string(self.requests[key])).isGreaterThan(quantity(string(self.limits[key]))))"""

BUILT_IN_TRAINER = "(!has(self.trialTemplate.image) && !has(self.trialTemplate.command))"
"""CEL, of a spec: whether the trials' containers run the built-in trainer."""

NodeSelector = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=16, json_schema_extra=guarded(_KEYS_ARE_NAMES, _VALUES_ARE_LABELS)),
]
ResourceList = Annotated[
    dict[LabelKey, Quantity], Field(max_length=16, json_schema_extra=guarded(_KEYS_ARE_NAMES, _QUANTITIES))
]


class PullPolicy(StrEnum):
    """When the image is pulled."""

    ALWAYS = "Always"
    """At every start."""
    IF_NOT_PRESENT = "IfNotPresent"
    """Where the node does not have it."""
    NEVER = "Never"
    """The node must have it."""


class EnvironmentVariable(ApiModel):
    """A plain variable; values from Secrets are not offered."""

    name: str = Field(
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        max_length=128,
        json_schema_extra=guarded(
            Rule(
                cel="!self.startsWith('NASCALE_')",
                message="must not start with NASCALE_, the prefix of the operator's own variables",
                detail="""'must not start with NASCALE_, the prefix of the operator\\'s own variables, as in '
                    + self""",
            )
        ),
    )
    """Name of the variable."""
    value: str = Field(default="", max_length=8192)
    """Value of the variable."""


class Resources(ApiModel):
    """Resources of the trial's container, as in any pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"!has(self.requests) || !has(self.limits) || !self.requests.exists(key, {_EXCESS})",
            message="must not request more than the limit",
            detail=f"'must not request more than the limit of ' + self.requests.map(key, {_EXCESS}, key)[0]",
        ),
    )

    requests: ResourceList = Field(default_factory=dict)
    """What the scheduler sets aside, by resource name: cpu in cores, memory in bytes."""
    limits: ResourceList = Field(default_factory=dict)
    """What the container may not exceed, by resource name; devices such as nvidia.com/gpu go here."""


class ConfigMapSource(ApiModel):
    """A ConfigMap of the same namespace."""

    name: DnsLabel
    """Name of the ConfigMap."""


class VolumeClaimSource(ApiModel):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: DnsLabel
    """Name of the PersistentVolumeClaim."""


class EmptyDirSource(ApiModel):
    """A folder that lives as long as the pod."""

    size_limit: Quantity | None = None
    """Largest size of the folder, bytes as a quantity (4Gi); absent: the node's."""


class Volume(ApiModel):
    """A volume of a safe kind, mounted into the trial's container: exactly one source."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("configMap", "persistentVolumeClaim", "emptyDir"),)

    name: DnsLabel = Field(
        json_schema_extra=guarded(
            Rule(
                cel="!self.startsWith('nascale-')",
                message="must not start with nascale-, the prefix of the operator's own volumes",
            )
        )
    )
    """Name of the volume, once per template."""
    mount_path: str = Field(
        pattern=r"^/[^:]*$",
        max_length=512,
        json_schema_extra=guarded(
            Rule(
                cel="!self.split('/').exists(part, part == '..' || part == '.') && !self.contains('//')",
                message="must be a path without '..', '.' and '//'",
                detail="""'must be a path without "..", "." and "//", not ' + self""",
            ),
            Rule(
                cel=f"""self != '/' && !{list(RESERVED_PATHS[1:])}.exists(own,
                    self == own || self.startsWith(own + '/'))""",
                message="must not be or lie below one of " + ", ".join(RESERVED_PATHS),
                detail=f"'must not be or lie below one of {', '.join(RESERVED_PATHS)}, as does ' + self",
            ),
        ),
    )
    """Absolute path of the folder in the container."""
    read_only: bool = False
    """Mounts the volume so that the trial can't write to it."""
    config_map: ConfigMapSource | None = None
    persistent_volume_claim: VolumeClaimSource | None = None
    empty_dir: EmptyDirSource | None = None


class TolerationOperator(StrEnum):
    """How a toleration's key matches."""

    EXISTS = "Exists"
    """Any value of the key."""
    EQUAL = "Equal"
    """The stated value."""


class TaintEffect(StrEnum):
    """What a taint does to pods without a toleration."""

    NO_SCHEDULE = "NoSchedule"
    """New pods are not placed."""
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    """New pods are placed elsewhere where that is possible."""
    NO_EXECUTE = "NoExecute"
    """New pods are not placed, running ones are evicted."""


class Toleration(ApiModel):
    """A toleration as in any pod."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.operator != 'Exists' || !has(self.value) || self.value == ''",
            message="must not have a value with operator Exists",
        ),
        Rule(
            cel="self.operator == 'Exists' || (has(self.key) && self.key != '')",
            message="must have a key with operator Equal",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="must have effect NoExecute where tolerationSeconds is set",
        ),
    )

    key: str | None = Field(default=None, max_length=317)
    """Key of the taint; absent with operator Exists: every taint."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    value: str | None = Field(default=None, max_length=63)
    """Value of the taint, with operator Equal."""
    effect: TaintEffect | None = None
    """Effect of the taint; absent: every effect."""
    toleration_seconds: int | None = Field(default=None, ge=0, le=86_400)
    """Seconds that a running pod stays after a NoExecute taint; absent: for ever."""


class LocalReference(ApiModel):
    """An object of the same namespace, by name."""

    name: DnsLabel
    """Name of the object."""


class TrialTemplate(ApiModel):
    """What a trial's pod runs. Without image and command it is the built-in trainer."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Image of the container; absent: the operator's trainer image."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled; absent: IfNotPresent, or Always for the tag latest."""
    command: tuple[Annotated[str, Field(max_length=8192)], ...] | None = Field(default=None, max_length=64)
    """Program and first arguments; absent: the image's entry point."""
    args: tuple[Annotated[str, Field(max_length=8192)], ...] | None = Field(default=None, max_length=64)
    """Further arguments."""
    env: tuple[EnvironmentVariable, ...] = Field(
        default=(),
        max_length=64,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """Variables beside the operator's own (NASCALE_...)."""
    resources: Resources = Resources()
    """Requests and limits; those of spec.target.resources are added."""
    volumes: tuple[Volume, ...] = Field(
        default=(),
        max_length=16,
        json_schema_extra=guarded(
            Rule(
                cel="self.all(v, self.exists_one(other, other.mountPath == v.mountPath))",
                message="must have each mountPath once",
                detail="""'must have each mountPath once, not again '
                    + self.map(v, !self.exists_one(other, other.mountPath == v.mountPath), v.mountPath)[0]""",
            ),
            list_type="map",
            list_map_keys=["name"],
        ),
    )
    """Volumes and where they are mounted."""
    image_pull_secrets: tuple[LocalReference, ...] = Field(
        default=(), max_length=8, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Secrets of the same namespace with credentials for the image's registry."""
    service_account_name: DnsLabel | None = None
    """Account of the pod, one of the installation's list (chart value trials.serviceAccounts); absent: the
    namespace's default. Its token is not mounted."""
    priority_class_name: DnsLabel | None = None
    """PriorityClass of the pod."""
    runtime_class_name: DnsLabel | None = None
    """RuntimeClass of the pod, for example nvidia."""
    scheduler_name: DnsLabel | None = None
    """Scheduler that places the pod; absent: the cluster's default."""
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict,
        max_length=16,
        json_schema_extra=guarded(_KEYS_ARE_NAMES, _VALUES_ARE_LABELS, _NO_RESERVED_LABELS),
    )
    """Labels of Job and pod beside the operator's own."""
    annotations: dict[LabelKey, Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict,
        max_length=16,
        json_schema_extra=guarded(_KEYS_ARE_NAMES, _NO_RESERVED_ANNOTATIONS),
    )
    """Annotations of Job and pod beside the operator's own."""
    termination_grace_period_seconds: int = Field(default=30, ge=0, le=3600)
    """Seconds between the request to stop a trial and its end by force."""
