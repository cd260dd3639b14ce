"""Which series a query reads: whether all of them are of one namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

NAMESPACE_LABEL: Final = "namespace"
_SELECTORS: Final = frozenset({"vectorSelector", "matrixSelector"})


def foreign_selectors(tree: object, namespace: str) -> tuple[str, ...]:
    """Return the selectors of a query that other namespaces' series match as well, as PromQL.

    Args:
        tree: What ``/api/v1/parse_query`` of Prometheus makes of the query.
        namespace: The only one whose series may be read: by a matcher for equality, nothing else counts.
    """
    return tuple(
        _written(selector)
        for selector in _selectors(tree)
        if not any(_binds(matcher, namespace) for matcher in _matchers(selector))
    )


def _selectors(node: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if node.get("type") in _SELECTORS:
            yield node
        for part in node.values():
            yield from _selectors(part)
    elif isinstance(node, list):
        for part in node:
            yield from _selectors(part)


def _matchers(selector: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [own for own in selector.get("matchers") or () if isinstance(own, Mapping)]


def _binds(matcher: Mapping[str, Any], namespace: str) -> bool:
    wanted = (NAMESPACE_LABEL, "=", namespace)
    return (matcher.get("name"), matcher.get("type"), matcher.get("value")) == wanted


def _written(selector: Mapping[str, Any]) -> str:
    name = selector.get("name") or ""
    shown = [
        f'{own.get("name")}{own.get("type")}"{own.get("value")}"'
        for own in _matchers(selector)
        if not (name and own.get("name") == "__name__")
    ]
    return f"{name}{{{','.join(shown)}}}"
