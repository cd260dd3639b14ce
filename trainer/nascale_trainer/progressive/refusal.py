"""Why a run is not trained. No torch: what reads a run's folder refuses too."""

from __future__ import annotations


class CannotTrain(Exception):  # noqa: N818  # an end, not always an error
    """The run can't be carried out here; the message names stage, setting, value and range."""

    def __init__(self, reason: str, message: str) -> None:
        """Take the reason, one word for programs, and the sentence for people."""
        super().__init__(message)
        self.reason = reason
