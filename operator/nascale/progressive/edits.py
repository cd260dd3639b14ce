"""What an edit may change in a schedule that runs: what the API server and the trainer refuse as well."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nascale.contract.run_order import StageOrder


def edit_faults(
    before: Sequence[StageOrder], after: Sequence[StageOrder], *, ended: Collection[str], present: str | None
) -> tuple[str, ...]:
    """Return what an edit changes though it can't be changed any more.

    Stages that have ended stay as they were, in their places. The present one may change its length and what
    ends it earlier. Stages to come are free.

    Args:
        before: The schedule that runs.
        after: The schedule that is wanted.
        ended: Names of the stages that have ended, skipped ones included.
        present: Name of the stage that is trained; ``None``: none has begun.
    """
    found: list[str] = []
    for place, stage in enumerate(before):
        if stage.name not in ended and stage.name != present:
            continue
        field = f"spec.stages[{place}] ({stage.name})"
        wanted = after[place] if place < len(after) else None
        if wanted is None or wanted.name != stage.name:
            found.append(f"{field}: must keep its place: it has begun")
        elif stage.name in ended and wanted != stage:
            found.append(f"{field}: must stay as it was: it has ended")
        elif stage.name == present and (wanted.model, wanted.hardware) != (stage.model, stage.hardware):
            found.append(f"{field}: must change nothing but length and until: it is being trained")
    return tuple(found)
