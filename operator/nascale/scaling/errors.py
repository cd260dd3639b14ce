"""Errors of a sweep."""

from __future__ import annotations


class ScalingError(ValueError):
    """A sweep that can't be run as asked; the message names field, value and allowed range."""


class InvalidBaseError(ScalingError):
    """A base that can't be built, or of which nothing grows."""


class InvalidRangeError(ScalingError):
    """Coefficient ranges that are empty, shrink the base, or leave nothing to choose."""


class InvalidFamilyError(ScalingError):
    """Members whose budgets are missing, repeat or do not increase."""


class InvalidExplorationError(ScalingError):
    """Counts, rungs or tolerances that contradict each other."""


class NetworkTooLargeError(ScalingError):
    """A scaled network beyond what a description of a network may hold."""
