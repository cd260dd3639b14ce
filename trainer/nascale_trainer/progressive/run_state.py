"""Where a run stands: all that a checkpoint keeps beside tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.progressive.history import History, StageHistory
from nascale_trainer.progressive.manifest import Manifest, PendingSwitch, PlateauRecord
from nascale_trainer.progressive.proposals import Schedule, Standing


@dataclass
class RunState:
    """A run at a step boundary.

    Attributes:
        schedule: In force.
        revision: Of the desired state that was last applied.
        refused: Revision that was last refused, and why in one word.
        step: Optimizer steps so far.
        samples: Cursor: number of the next sample.
        place: Place of the present stage.
        going_to: Place of the stage to go on to before the present one's bound; the number of stages for the
            run's end; ``None``: the bound counts.
        plateau: How long the present stage's metric has waited.
        metrics: Values of the last evaluation.
        switches: Switches so far, by class.
        history: What the stages have cost and reached.
        pending: A switch that a later process has to finish.
        paused: Whether the generation ends here, for a pause.
    """

    schedule: Schedule
    revision: int = 0
    refused: tuple[int, str] | None = None
    step: int = 0
    samples: int = 0
    place: int = 0
    going_to: int | None = None
    plateau: PlateauRecord = field(default_factory=PlateauRecord)
    metrics: dict[str, float] = field(default_factory=dict)
    switches: dict[str, int] = field(default_factory=dict)
    history: History = field(default_factory=History)
    pending: PendingSwitch | None = None
    paused: bool = False

    @classmethod
    def begin(cls, schedule: Schedule, revision: int) -> RunState:
        """Return a run before its first step."""
        state = cls(schedule, revision)
        state.history.begin(0, schedule.stages[0].name, 0, SwitchClass.NONE)
        return state

    @classmethod
    def of(cls, manifest: Manifest, schedule: Schedule, revision: int) -> RunState:
        """Return the run that a checkpoint holds."""
        return cls(
            schedule=schedule,
            revision=revision,
            refused=manifest.refused,
            step=manifest.step,
            samples=manifest.samples,
            place=manifest.place,
            going_to=manifest.going_to,
            plateau=manifest.plateau,
            metrics=dict(manifest.metrics),
            switches=dict(manifest.switches),
            history=History.of(manifest.history),
            pending=manifest.pending,
        )

    @property
    def stage(self) -> StageOrder:
        """The present stage, as the schedule states it."""
        return self.schedule.stages[self.place]

    @property
    def whole(self) -> int:
        """Length of the run, samples."""
        return self.schedule.bounds.whole

    @property
    def looked_at(self) -> int:
        """Newest revision of the desired state that was applied or refused."""
        return max(self.revision, self.refused[0] if self.refused else 0)

    @property
    def stage_is_over(self) -> bool:
        """Whether the present stage has reached its bound or an early end."""
        return self.going_to is not None or self.samples >= self.schedule.bounds.ends[self.place]

    @property
    def following(self) -> int:
        """Place of the stage that follows the present one; the number of stages where none does."""
        if self.samples >= self.whole:
            return len(self.schedule.stages)
        natural = self.schedule.after(self.place, self.samples)
        return natural if self.going_to is None else max(self.going_to, natural)

    @property
    def waited(self) -> int | None:
        """Evaluations since the metric of the present stage's plateau last got better; ``None``: not known.

        One evaluation alone is the best so far and says nothing.
        """
        judged = self.stage.until_plateau is not None and self.plateau.evaluated > 1
        return self.plateau.waited if judged else None

    def standing(self) -> Standing:
        """Return where the run stands, for edits."""
        begun = set(self.history.ended_places())
        if self.history.begun and self.history.present.steps:
            begun.add(self.place)
        return Standing(self.place, self.samples, begun)

    def enter(self, place: int, kind: SwitchClass) -> StageHistory:
        """Go on to a stage."""
        self.history.end(self.samples)
        self.place, self.going_to, self.plateau = place, None, PlateauRecord()
        self.switches[kind.value] = self.switches.get(kind.value, 0) + 1
        return self.history.begin(place, self.stage.name, self.samples, kind)

    def manifest(
        self, order: RunOrder, fingerprint: str, world: int, scaler: dict[str, Any] | None
    ) -> Manifest:
        """Return what a checkpoint keeps; format and digests are still missing."""
        return Manifest(
            uid=order.run.uid,
            fingerprint=fingerprint,
            generation=order.generation,
            revision=self.revision,
            refused=self.refused,
            step=self.step,
            samples=self.samples,
            place=self.place,
            going_to=self.going_to,
            world=world,
            format="",
            stages=self.schedule.stages,
            ends=self.schedule.bounds.ends,
            history=self.history.records(),
            plateau=self.plateau,
            metrics=dict(self.metrics),
            switches=dict(self.switches),
            pending=self.pending,
            paused=self.paused,
            scaler=scaler,
        )
