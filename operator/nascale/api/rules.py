"""CEL rules: what the API server checks between fields, written beside the models that they guard.

A rule's message starts with "must": the API server puts the path and the value in front of it. What
CEL can't say at a bounded cost is checked by the operator (docs/design/0001-api.md lists which).
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic.config import JsonDict, JsonValue


@dataclass(frozen=True)
class Rule:
    """One entry of ``x-kubernetes-validations``.

    Attributes:
        cel: Expression that must be true; ``self`` is the value, ``oldSelf`` makes it a rule about changes.
        message: What is said where the expression is false, or where ``detail`` can't be computed.
        detail: CEL expression of a message that also names the value.
        path: Field (``.name``) that the message is about, where it is not the value as a whole.
        optional_old: Whether the rule is also applied when the value is new; ``oldSelf`` is optional then.
    """

    cel: str
    message: str
    detail: str | None = None
    path: str | None = None
    optional_old: bool = False

    def to_schema(self) -> JsonDict:
        """Return the entry of the structural schema."""
        entry: JsonDict = {"rule": " ".join(self.cel.split()), "message": self.message}
        if self.detail is not None:
            entry["messageExpression"] = " ".join(self.detail.split())
        if self.path is not None:
            entry["fieldPath"] = self.path
        if self.optional_old:
            entry["optionalOldSelf"] = True
        return entry


def guarded(*rules: Rule, **extra: JsonValue) -> JsonDict:
    """Return the ``json_schema_extra`` of a field with rules and further schema keys (``list_type``)."""
    schema: JsonDict = {f"x-kubernetes-{key.replace('_', '-')}": value for key, value in extra.items()}
    if rules:
        schema["x-kubernetes-validations"] = [rule.to_schema() for rule in rules]
    return schema


def number(cel: str, *, largest: int) -> str:
    """Return CEL for the decimal digits of an integer expression, for messages.

    ``string(x)`` would do, but the API server can't bound its length and refuses the rule as too
    costly; the length of a text put together from single digits is known.

    Args:
        cel: The integer expression.
        largest: Its largest possible absolute value.
    """
    digits = "+".join(
        f"(v >= {10**place} ? '0123456789'.substring(v / {10**place} % 10, v / {10**place} % 10 + 1) : '')"
        for place in range(len(str(largest)) - 1, 0, -1)
    )
    last = "'0123456789'.substring(v % 10, v % 10 + 1)"
    positive = f"[v < 0 ? -v : v].map(v, {digits}{'+' if digits else ''}{last})[0]"
    return f"[{cel}].map(v, (v < 0 ? '-' : '') + {positive})[0]"


def exactly_one_of(*names: str) -> Rule:
    """Make the rule of a union: one of these optional fields is set, no other."""
    flags = [f"has(self.{name})" for name in names]
    listed = ", ".join(names)
    given = " + ".join(f"({flag} ? ' {name}' : '')" for flag, name in zip(flags, names, strict=True))
    return Rule(
        cel=f"[{', '.join(flags)}].exists_one(given, given)",
        message=f"must have exactly one of {listed}",
        detail=f"'must have exactly one of {listed}, not' + ({' || '.join(flags)} ? '' : ' none') + {given}",
    )


IMMUTABLE = Rule(cel="self == oldSelf", message="must not change after creation")
"""For a field that is always there: required, or with a default."""

NAME_IS_A_LABEL = Rule(
    cel="self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
    message="must be a DNS label: at most 63 of a-z, 0-9 and '-'",
    detail="""'must be a DNS label (at most 63 of a-z, 0-9 and "-"), not ' + self.metadata.name""",
)
"""For kinds whose name becomes a label's value and part of other names."""

EACH_ONCE: JsonDict = {"x-kubernetes-list-type": "set"}
"""Schema keys of a list whose values the API server holds apart."""


def kept(name: str) -> Rule:
    """Make the rule that an optional field is neither added nor taken away; for the object that holds it."""
    return Rule(
        cel=f"has(self.{name}) == has(oldSelf.{name})",
        message=f"must not add or remove {name} after creation",
    )
