"""What a generation's rank 0 leaves on the volume when all is done, for those who come too late. No torch.

Processes end one after the other. Without this, one that is killed on its last steps, or a pod that replaces
another's, would wait in vain for those that have ended well.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

from nascale.contract.errors import ContractError
from nascale.contract.run_order import RunOrder
from nascale.contract.run_report import RunOutcome, RunReport, parse_run_report
from nascale_trainer.durable_file import write_atomically

LASTING: Final = frozenset({RunOutcome.COMPLETED, RunOutcome.SWITCH, RunOutcome.PAUSED, RunOutcome.FAILED})
"""Ends after which the generation has nothing left to do. What was refused has done nothing and may be tried
again, perhaps in a folder that is another run's: it writes none."""
SUPERSEDED: Final = "Superseded"
"""Reason of a process that a later generation has taken over from: it writes no more."""

log = logging.getLogger(__name__)


def record_end(run_folder: Path, order: RunOrder, report: RunReport) -> None:
    """Keep a generation's report; rank 0 alone calls it. A volume that takes no file is not worth an end."""
    if report.outcome not in LASTING or report.reason == SUPERSEDED:
        return
    file = _file(run_folder, order)
    content = {"uid": order.run.uid, "report": report.encode().decode()}
    try:
        file.parent.mkdir(exist_ok=True)
        write_atomically(file, json.dumps(content).encode())
    except OSError as error:
        log.warning("%s can't be written: %s", file, error)


def recorded_end(run_folder: Path, order: RunOrder) -> RunReport | None:
    """Return the report of this generation; ``None``: it has not ended."""
    try:
        content = json.loads(_file(run_folder, order).read_bytes())
        if content["uid"] != order.run.uid:
            return None
        return parse_run_report(content["report"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ContractError) as error:
        log.warning("the generation's end can't be read: %s", error)
        return None


def _file(run_folder: Path, order: RunOrder) -> Path:
    return run_folder / "ended" / f"g{order.generation}.json"
