"""Errors of the generation of schedules."""

from __future__ import annotations


class GenerationError(ValueError):
    """A schedule that can't be generated as asked; the message names field, value and what is allowed."""


class NothingFeasibleError(GenerationError):
    """No combination that is fit for a last stage can run; the message names what was refused, and why."""


class QualityFloorError(GenerationError):
    """No candidate schedule keeps the quality floor; the message names the best one."""
