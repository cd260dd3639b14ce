"""``spec.trialTemplate``: the narrow part of a pod that a user may set.

Everything else (security context, service account token, restart policy, ports) is the operator's, so
that whoever may write a search can't start a privileged pod with it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from nascale.api.resource import ApiModel, DnsLabel, Quantity

LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
ResourceList = Annotated[dict[LabelKey, Quantity], Field(max_length=16)]


class PullPolicy(StrEnum):
    """When the image is pulled."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class EnvironmentVariable(ApiModel):
    """A plain variable; values from Secrets are not offered (mount what must stay secret as a volume)."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)
    value: str = Field(default="", max_length=8192)


class Resources(ApiModel):
    """Resources of the trial's container, as in any pod."""

    requests: ResourceList = Field(default_factory=dict)
    limits: ResourceList = Field(default_factory=dict)


class ConfigMapSource(ApiModel):
    """A ConfigMap of the same namespace."""

    name: DnsLabel


class VolumeClaimSource(ApiModel):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: DnsLabel


class EmptyDirSource(ApiModel):
    """A folder that lives as long as the pod."""

    size_limit: Quantity | None = None


class Volume(ApiModel):
    """A volume of a safe kind, mounted into the trial's container: exactly one source."""

    name: DnsLabel
    mount_path: str = Field(pattern=r"^/[^:]*$", max_length=512)
    read_only: bool = False
    config_map: ConfigMapSource | None = None
    persistent_volume_claim: VolumeClaimSource | None = None
    empty_dir: EmptyDirSource | None = None


class TolerationOperator(StrEnum):
    """How a toleration's key matches."""

    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    """What a taint does to pods without a toleration."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(ApiModel):
    """A toleration as in any pod."""

    key: str | None = Field(default=None, max_length=317)
    operator: TolerationOperator = TolerationOperator.EQUAL
    value: str | None = Field(default=None, max_length=63)
    effect: TaintEffect | None = None
    toleration_seconds: int | None = Field(default=None, ge=0, le=86_400)


class LocalReference(ApiModel):
    """An object of the same namespace, by name."""

    name: DnsLabel


class TrialTemplate(ApiModel):
    """What a trial's pod runs. Without an image, the operator's own trainer image is used."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    image_pull_policy: PullPolicy | None = None
    command: tuple[Annotated[str, Field(max_length=8192)], ...] | None = Field(default=None, max_length=64)
    args: tuple[Annotated[str, Field(max_length=8192)], ...] | None = Field(default=None, max_length=64)
    env: tuple[EnvironmentVariable, ...] = Field(default=(), max_length=64)
    resources: Resources = Resources()
    volumes: tuple[Volume, ...] = Field(default=(), max_length=16)
    image_pull_secrets: tuple[LocalReference, ...] = Field(default=(), max_length=8)
    service_account_name: DnsLabel | None = None
    """Must be in the operator's list of allowed accounts (chart value ``trials.serviceAccounts``)."""
    priority_class_name: DnsLabel | None = None
    runtime_class_name: DnsLabel | None = None
    scheduler_name: DnsLabel | None = None
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    annotations: dict[LabelKey, Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=dict, max_length=16
    )
    termination_grace_period_seconds: int = Field(default=30, ge=0, le=3600)
