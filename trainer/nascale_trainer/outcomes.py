"""How a candidate can end other than by success: each end is an exception with its outcome and reason."""

from __future__ import annotations

from typing import ClassVar

from nascale.contract.report import NOISY_MEASUREMENT, Outcome


class CandidateEnd(Exception):  # noqa: N818  # an end, not always an error
    """A candidate's end; the message says why, with field, value and bound."""

    outcome: ClassVar[Outcome] = Outcome.FAILED
    reason: ClassVar[str] = "Error"


class ConstraintBroken(CandidateEnd):
    """A metric breaks a hard constraint."""

    outcome = Outcome.INFEASIBLE
    reason = "ConstraintBroken"


class ResolutionTooSmall(CandidateEnd):
    """The input is smaller than the network's total stride, so nothing would be left of it."""

    outcome = Outcome.INFEASIBLE
    reason = "ResolutionTooSmall"


class Diverged(CandidateEnd):
    """The training's loss is no longer finite.

    It is an early stop, not a failure: the seed fixes the course of the training, so that another attempt
    would end in the same way.
    """

    outcome = Outcome.EARLY_STOPPED
    reason = "Diverged"


class NoisyMeasurement(CandidateEnd):
    """Latency could not be measured with the accepted spread; another attempt may find a quieter machine."""

    reason = NOISY_MEASUREMENT


class UnsupportedPrecision(CandidateEnd):
    """The device can't compute in the target's number format."""

    reason = "UnsupportedPrecision"


class DataNotFound(CandidateEnd):
    """The data set is missing, empty, or can't be read."""

    reason = "DataNotFound"


class OutOfMemory(CandidateEnd):
    """The network does not fit the device: another attempt would not fit either."""

    outcome = Outcome.INFEASIBLE
    reason = "OutOfMemory"


class Stopped(Exception):  # noqa: N818  # a request, not an error
    """The process was asked to end (SIGTERM): nothing is reported, another pod takes over."""
