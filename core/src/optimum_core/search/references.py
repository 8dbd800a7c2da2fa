"""Reference outputs of the eager model on the cases of a search, computed once for each signature."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.measure.workload import WorkShape
from optimum_core.models.inputs.samples import Case
from optimum_core.models.references.eager_dialogues import PictureText
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.search.budget import Budget
from optimum_core.verify import ReferenceCase
from optimum_core.verify.dialogues import Dialogue, drawn_dialogues
from optimum_core.verify.eager_refusals import refusing_places
from optimum_core.verify.gradients import minds_gradients
from optimum_core.verify.lengths_between import cases_between
from optimum_core.verify.planned_cases import Room
from optimum_core.verify.reference import cases_at, cases_taken, few_of, reference_cases, remembers

#: Seconds: if the cases took longer, the eager model is not run on all of them again.
_PATIENCE = 10.0
#: Calls for a case: two of eager, and one of a first candidate.
_CALLS = 3
#: Seconds that cases beyond the ordinary ones may take in all whatever budget was stated.
_LITTLE = 1.0


class EagerRemarks(TypedDict):
    """Fields of a report; see there."""

    remembers: bool
    minds_gradients: bool
    inputs_left: tuple[str, ...]
    checks_left_out: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class References:
    """Reference outputs of the eager model, computed on first use.

    Attributes:
        budget: where its time was stated, cases beyond the ordinary ones are left out for which too little is left.
        notes: remarks on the eager model for the report.
        ended_at: seconds that a budget must exceed to hold a case that was left out; None: none was.
    """

    source: Source
    emit: Emit
    budget: Budget | None = None
    notes: tuple[str, ...] = ()
    _remembers: bool = False
    _minds_gradients: bool = False
    _written: tuple[str, ...] = ()
    _checks: tuple[str, ...] = ()
    _drawn: dict[int, tuple[ReferenceCase, ...]] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)
    _left_out: dict[int, Sequence[Case]] = field(default_factory=dict)
    _at_work: dict[int, tuple[ReferenceCase, ...]] = field(default_factory=dict)
    _between: dict[int, tuple[ReferenceCase, ...]] = field(default_factory=dict)
    ended_at: float | None = None
    _few: tuple[int, int] | None = None
    _beyond: float = 0.0
    _dialogues: tuple[Dialogue | PictureText, ...] | None = None

    def remarks(self, *, eager: bool) -> EagerRemarks:
        """Return the fields of a report that say where the chosen candidate is not as eager.

        Args:
            eager: whether that is the eager model itself.
        """
        return EagerRemarks(
            remembers=self._remembers and not eager,
            minds_gradients=self._minds_gradients and not eager,
            inputs_left=() if eager else self._written,
            checks_left_out=() if eager else self._checks,
        )

    def drawn(self, signature: ModelSignature, shapes: Sequence[WorkShape] = ()) -> tuple[ReferenceCase, ...]:
        """Return cases with inputs that the signature was not traced with, the traced shape first.

        Args:
            shapes: those that are timed; no length up to theirs is left out for want of time.
        """
        key = id(signature)
        if key not in self._drawn:
            room = self._room(shapes) if self._is_limited else None
            with watched(self.emit, "reference", "the eager model on unseen shapes") as stage:
                self._drawn[key] = reference_cases(self.source.module(), signature, room)
            self._left_out[key], self._seconds[key] = room.left_out if room is not None else (), stage.seconds
            if not self.notes and stage.seconds < _PATIENCE:
                self._look_for_memory(self._drawn[key], stage.seconds)
                self._look_for_gradients(signature)
                self._look_for_checks(signature)
            self._note_writes(self._drawn[key])
        return self._drawn[key]

    def _room(self, shapes: Sequence[WorkShape]) -> Room:
        needed: dict[str, int] = {}
        for shape in shapes:
            needed |= {axis: max(length, needed.get(axis, 0)) for axis, length in shape.lengths.items()}
        return Room(allows=lambda seconds: self._holds(_CALLS * seconds), needed=needed)

    def left_out(self, signature: ModelSignature) -> Sequence[Case]:
        """Return the cases of a signature for which too little of a stated budget was left."""
        return self._left_out.get(id(signature), ())

    @property
    def seconds(self) -> float:
        """The length of the budget; without one, none of what follows from it is left out."""
        return self.budget.seconds if self.budget is not None else math.inf

    @property
    def _is_limited(self) -> bool:
        return self.budget is not None and self.budget.stated

    def _holds(self, seconds: float) -> bool:
        """Whether a stated budget has so many seconds for cases beyond the ordinary ones; notes what it lacks."""
        if self.budget is None or not self._is_limited:
            return True
        self._beyond += seconds
        needed = self.budget.needed_beside(seconds)
        if self._beyond < _LITTLE or needed < self.budget.seconds:
            return True
        self._beyond -= seconds
        self.ended_at = min(needed, self.ended_at or needed)
        return False

    def words_left_out(self, signature: ModelSignature) -> tuple[str, ...]:
        """Return `Report.left_out` for a candidate of this signature."""
        in_a_row = [f"calls in a row, but for {self._few[0]} of {self._few[1]}"] if self._few is not None else []
        return (*(case.name for case in self.left_out(signature)), *in_a_row)

    def _note_writes(self, cases: tuple[ReferenceCase, ...]) -> None:
        """Add a note if the eager model changes its inputs in place."""
        written = sorted(frozenset().union(*(case.written for case in cases)))
        if written and not self._written:
            self._written = tuple(written)
            names = ", ".join(map(repr, written))
            self._note(f"eager changes its inputs in place ({names}); this model leaves them as they are")

    def _look_for_memory(self, cases: tuple[ReferenceCase, ...], seconds: float) -> None:
        """Add a note if the eager model's outputs depend on earlier calls.

        Args:
            seconds: those that the cases took; where a stated budget does not hold as many, a few are run again.
        """
        if not self._holds(seconds):
            self._few = len(few_of(cases)), len(cases)
        case = remembers(self.source.module(), cases if self._few is None else few_of(cases))
        if case is not None:
            self._remembers = True
            self._note(
                f"eager itself remembers: after other calls it answers {case!r} otherwise, or not at all; this model "
                "equals one that has seen no other call"
            )

    def _look_for_gradients(self, signature: ModelSignature) -> None:
        """Add a note if the eager model answers otherwise while gradients are recorded."""
        output = minds_gradients(self.source.module(), signature)
        if output is not None:
            self._minds_gradients = True
            self._note(
                f"eager gives other values of {output!r} while gradients are recorded; this model equals eager under "
                "torch.no_grad()"
            )

    def _look_for_checks(self, signature: ModelSignature) -> None:
        """Add a note if the eager model raises for some values of its inputs, or for lengths together.

        Where pictures and text are merged, the model's own code does that at every call, with its checks.
        """
        if signature.decoder is not None and signature.decoder.merge is not None:
            return
        self._checks = refusing_places(self.source.module(), signature)
        if self._checks:
            which = f"the checks at {', '.join(self._checks[:3])}"
            self._note(f"eager raises for some values or lengths, by {which}; no export makes them")

    def _note(self, remark: str) -> None:
        self.notes = (*self.notes, remark)

    def at_work(self, signature: ModelSignature, shapes: Sequence[WorkShape]) -> tuple[ReferenceCase, ...]:
        """Return a case for every shape that is timed, so that all timed shapes are compared as well."""
        key = id(signature)
        if key not in self._at_work:
            named = {f"as in the workload, {shape.name}": shape.lengths for shape in shapes}
            self._at_work[key] = cases_at(self.source.module(), signature, named)
        return self._at_work[key]

    def between(self, signature: ModelSignature, cases: Sequence[ReferenceCase]) -> tuple[ReferenceCase, ...]:
        """Return cases at lengths between those of the others, as many as eager answers in a moment."""
        key = id(signature)
        if key not in self._between:
            self._between[key] = cases_between(self.source.module(), signature, cases, self._seconds.get(key, 0.0))
        return self._between[key]

    def dialogues(self, signature: ModelSignature) -> tuple[Dialogue | PictureText, ...]:
        """Return calls that continue from a cache, for a model that generates."""
        if self._dialogues is None:
            with watched(self.emit, "reference", "the eager model's own text, token by token"):
                self._dialogues = drawn_dialogues(self.source.module(), signature)
        return self._dialogues

    def taken(
        self, session: Any, signature: ModelSignature, cases: tuple[ReferenceCase, ...]
    ) -> tuple[ReferenceCase, ...]:
        """Return the cases, or if the session does not take all of their lengths, others that it takes."""
        return cases_taken(session, self.source.module(), signature, cases)
