"""The base of every document that crosses between operator and trainer."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from nascale.contract.errors import ContractError, UnknownVersionError


class Document(BaseModel):
    """A frozen JSON document with camelCase keys.

    Unknown keys are refused: a document of this version has no others, and a misspelt key
    would otherwise be a setting that silently does nothing.
    """

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> str:
        """Return the compact JSON text, without keys that hold their default ``None``."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


D = TypeVar("D", bound=Document)


def parse_document(text: str, model: type[D], version: str, what: str) -> D:
    """Read a versioned JSON document.

    Args:
        text: The JSON text.
        model: The document's model.
        version: The only version that this release reads.
        what: The document's name in messages ("work order").

    Raises:
        UnknownVersionError: the document states another version.
        ContractError: the text is not a JSON object, or fields are missing or out of range; the
            message names each field, its value and what was expected.
    """
    try:
        # json.loads takes NaN and Infinity, which are not JSON: refuse them here, by name.
        raw = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"{what}: must be JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ContractError(f"{what}: must be a JSON object, not {type(raw).__name__}")
    found = raw.get("version")
    if found != version:
        raise UnknownVersionError(f"{what}: version: must be {version!r}, not {str(found)[:64]!r}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise ContractError(f"{what}: {describe(error)}") from error


def is_of_family(text: str, version: str) -> bool:
    """Say whether a document is of the kind that a version names, of whatever version of it."""
    try:
        found = json.loads(text).get("version")
    except (ValueError, AttributeError, RecursionError):
        return False
    return isinstance(found, str) and found.rpartition("/")[0] == version.rpartition("/")[0]


def describe(error: ValidationError, limit: int = 8) -> str:
    """Say every fault of a failed validation in one line: path, expectation, value."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or '(document)'}: {fault['msg']}, "
        f"not {str(fault['input'])[:64]!r}"
        for fault in error.errors(include_url=False)
    ]
    more = f" (and {len(faults) - limit} more)" if len(faults) > limit else ""
    return "; ".join(faults[:limit]) + more


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
