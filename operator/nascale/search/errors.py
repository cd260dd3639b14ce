"""Errors of the search."""

from __future__ import annotations


class SearchError(ValueError):
    """A search that can't be run as asked; the message names field, value and allowed range."""


class InvalidSpaceError(SearchError):
    """A search space that holds fewer than two candidates, or contradicts itself."""


class MissingDependencyError(SearchError):
    """A sampler whose library is not installed; the message names the extra."""
