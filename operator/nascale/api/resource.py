"""The base of the kinds' models, and what all kinds share: metadata and conditions."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema

from nascale.api.rules import Rule

DECIMAL_PATTERN = r"^-?[0-9]{1,18}(\.[0-9]{1,18})?(e-?[0-9]{1,2})?$"
DecimalText = Annotated[str, Field(pattern=DECIMAL_PATTERN, max_length=42)]
"""A decimal number as text, for example ``"0.005"`` or ``"1e-3"``: the API has no floats."""
RatioText = Annotated[str, Field(pattern=r"^(0|1|0\.[0-9]{1,9}|1\.0{1,9})$", max_length=11)]
"""A decimal from 0 to 1 as text."""
DnsLabel = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", max_length=63)]


def number_as_text(value: object) -> object:
    """Return a whole number as text, and anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(number_as_text),
    Field(max_length=32, json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""A Kubernetes quantity: ``"2"``, ``"500m"``, ``"4Gi"``, or a whole number as in ``nvidia.com/gpu: 1``."""


MAX_GENERATION = 9_007_199_254_740_991
"""Largest whole number that every JSON reader keeps exactly."""
MAX_SECONDS = 1_000_000_000_000


class ApiModel(BaseModel):
    """A frozen part of a custom resource, with camelCase keys.

    Unknown keys are ignored when read: the API server prunes what the schema does not know, and a
    newer CRD must not stop an older operator.
    """

    rules: ClassVar[tuple[Rule, ...]] = ()
    """What the API server checks between this part's fields."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Add this class's rules to its schema."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        if cls.rules:
            schema["x-kubernetes-validations"] = [rule.to_schema() for rule in cls.rules]
        return schema

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form, without absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ConditionStatus(StrEnum):
    """metav1.ConditionStatus."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """metav1.Condition."""

    type: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$", max_length=63)
    """What the condition is about, for example Succeeded."""
    status: ConditionStatus
    """Whether it holds: True, False or Unknown."""
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", min_length=1, max_length=128)
    """Why, as one word for programs."""
    message: str = Field(default="", max_length=2048)
    """Why, as a sentence for people."""
    observed_generation: int | None = Field(default=None, ge=0, le=MAX_GENERATION)
    """Generation of the object (metadata.generation) that the condition was computed for."""
    last_transition_time: datetime
    """When status last changed."""


class OwnerReference(ApiModel):
    """metav1.OwnerReference."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(ApiModel):
    """The part of metav1.ObjectMeta that nascale reads."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
