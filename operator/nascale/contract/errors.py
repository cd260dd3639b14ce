"""Errors of documents that cross between operator and trainer."""

from __future__ import annotations


class ContractError(ValueError):
    """A work order, report or architecture that can't be used; the message names field, value and range."""


class UnknownVersionError(ContractError):
    """A document of a version that this release does not read."""


class ReportTooLongError(ContractError):
    """A report that does not fit a pod's termination message."""
