"""Several processes that measure together: they take every step alike, or begin anew and meet again.

Steps are counted by what the slowest has taken, so that all take as many. Where one of them fails within a
candidate (no memory, say), the others wait for it in an exchange, and can't be told: it writes down what has
happened, and leaves. The others lose their peer; the launchers start all anew, which go on with the next
candidate. What is known lies in the folder of the profile's Job, which all its pods mount.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from nascale.contract.profile_order import ProfileCandidate, ProfileOrder
from nascale.contract.report import CandidateReport, Outcome
from nascale_trainer.durable_file import write_atomically
from nascale_trainer.outcomes import CandidateEnd, NoisyMeasurement, Stopped
from nascale_trainer.progressive.ranks import PeerLost, Ranks
from nascale_trainer.progressive.refusal import CannotTrain

WORKERS_ABSENT: Final = "WorkersAbsent"
"""Reason of candidates whose processes have not met."""
MOST_MISSED_MEETINGS: Final = 2
"""So many meetings to which not all have come, and they are not waited for any more."""
_FOLDER: Final = "results"
_MISSED: Final = "missed-meetings"
_MOST_MESSAGE: Final = 1024
_ALIKE: Final = (CannotTrain, NoisyMeasurement)
"""What ends a candidate in all processes at the same place: they have agreed on it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileNotes:
    """What is known of a profile's candidates, in the folder that its pods share.

    Attributes:
        folder: The folder.
    """

    folder: Path

    def results(self, order: ProfileOrder) -> dict[str, CandidateReport]:
        """Return the results that are known, by trial; what can't be read is found out anew."""
        found: dict[str, CandidateReport] = {}
        for candidate in order.candidates:
            try:
                text = self._file(candidate.trial).read_text(encoding="utf-8")
                found[candidate.trial] = CandidateReport.model_validate_json(text)
            except (OSError, ValidationError, ValueError):
                continue
        return found

    def keep(self, result: CandidateReport) -> None:
        """Write a result down; the first one stays."""
        file = self._file(result.trial)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, result.to_json().encode())

    def missed_meeting(self) -> int:
        """Count one more meeting to which not all have come; return how many there were."""
        file = self.folder / _MISSED
        try:
            count = int(file.read_text(encoding="ascii")) + 1
        except (OSError, ValueError):
            count = 1
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, str(count).encode())
        return count

    def _file(self, trial: str) -> Path:
        return self.folder / _FOLDER / f"{trial}.json"


@dataclass(frozen=True)
class ProfileGroup:
    """The processes that work on a profile together, as one of them sees it.

    Attributes:
        order: What they are asked for.
        ranks: The processes.
        notes: What is known.
    """

    order: ProfileOrder
    ranks: Ranks
    notes: ProfileNotes

    def known(self) -> Mapping[str, CandidateReport]:
        """Return the results that are known to the first process, by trial: all go by the same."""
        found = self.notes.results(self.order) if self.ranks.rank == 0 else {}
        names = self.ranks.broadcast("\n".join(found)) or ""
        return {trial: found.get(trial, _seen(trial)) for trial in names.split("\n") if trial}

    def keep(self, result: CandidateReport) -> None:
        """Write a result down, once for all."""
        if self.ranks.rank == 0:
            self.notes.keep(result)

    @contextmanager
    def at_work(self, candidate: ProfileCandidate) -> Iterator[None]:
        """Leave, and let all begin anew, where a candidate ends here and may not elsewhere.

        Raises:
            PeerLost: so it does, or another process is gone.
        """
        from nascale_trainer.progressive.group import watching_peers  # noqa: PLC0415  # seconds of imports

        try:
            with watching_peers():
                yield
        except (Stopped, PeerLost, *_ALIKE):
            raise
        except Exception as error:
            log.exception("%s has ended here, and may not have in the other processes", candidate.trial)
            self.notes.keep(_failure(candidate.trial, error))
            raise PeerLost(f"{candidate.trial} has ended in process {self.ranks.rank} alone") from error


def absent(order: ProfileOrder, message: str) -> tuple[CandidateReport, ...]:
    """Return results that say that the processes of an order can't be had."""
    text = (
        f"workers: must be as many as the cluster can run at the same time, not {order.workers} with "
        f"{order.processes_per_worker} processes each: {message}"
    )
    return tuple(
        CandidateReport(
            trial=candidate.trial,
            outcome=Outcome.INFEASIBLE,
            reason=WORKERS_ABSENT,
            message=text[:_MOST_MESSAGE],
        )
        for candidate in order.candidates
    )


def _seen(trial: str) -> CandidateReport:
    """Return what stands for a result on processes that report nothing."""
    return CandidateReport(trial=trial, outcome=Outcome.FAILED)


def _failure(trial: str, error: Exception) -> CandidateReport:
    if isinstance(error, CandidateEnd):
        outcome, reason, message = error.outcome, error.reason, str(error)
    else:
        outcome, reason, message = Outcome.FAILED, "Error", f"{type(error).__name__}: {error}"
    return CandidateReport(
        trial=trial, outcome=outcome, reason=reason, message=message[:_MOST_MESSAGE] or None
    )
