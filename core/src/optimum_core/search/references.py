"""Reference outputs of the eager model on the cases of a search, computed once for each signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.measure.workload import WorkShape
from optimum_core.models.references.eager_dialogues import PictureText
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.verify import ReferenceCase
from optimum_core.verify.dialogues import Dialogue, drawn_dialogues
from optimum_core.verify.gradients import minds_gradients
from optimum_core.verify.reference import cases_at, cases_taken, reference_cases, remembers

#: Seconds: if the cases took longer, the eager model is not run on all of them again.
_PATIENCE = 10.0


class Limits(TypedDict):
    """Fields of a report; see there."""

    remembers: bool
    minds_gradients: bool


@dataclass(kw_only=True, slots=True)
class References:
    """Reference outputs of the eager model, computed on first use.

    Attributes:
        notes: remarks on the eager model for the report.
    """

    source: Source
    emit: Emit
    notes: tuple[str, ...] = ()
    _remembers: bool = False
    _minds_gradients: bool = False
    _drawn: dict[int, tuple[ReferenceCase, ...]] = field(default_factory=dict)
    _at_work: dict[int, tuple[ReferenceCase, ...]] = field(default_factory=dict)
    _dialogues: tuple[Dialogue | PictureText, ...] | None = None

    def limits(self, *, eager: bool) -> Limits:
        """Return the fields of a report that say where the chosen candidate is not as eager.

        Args:
            eager: whether that is the eager model itself.
        """
        return Limits(remembers=self._remembers and not eager, minds_gradients=self._minds_gradients and not eager)

    def drawn(self, signature: ModelSignature) -> tuple[ReferenceCase, ...]:
        """Return cases with inputs that the signature was not traced with, the traced shape first."""
        key = id(signature)
        if key not in self._drawn:
            with watched(self.emit, "reference", "the eager model on unseen shapes") as stage:
                self._drawn[key] = reference_cases(self.source.module(), signature)
            if not self.notes and stage.seconds < _PATIENCE:
                self._look_for_memory(self._drawn[key])
                self._look_for_gradients(signature)
        return self._drawn[key]

    def _look_for_memory(self, cases: tuple[ReferenceCase, ...]) -> None:
        """Add a note if the eager model's outputs depend on earlier calls."""
        case = remembers(self.source.module(), cases)
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

    def _note(self, remark: str) -> None:
        self.notes = (*self.notes, remark)

    def at_work(self, signature: ModelSignature, shapes: Sequence[WorkShape]) -> tuple[ReferenceCase, ...]:
        """Return a case for every shape that is timed, so that all timed shapes are compared as well."""
        key = id(signature)
        if key not in self._at_work:
            named = {f"as in the workload, {shape.name}": shape.lengths for shape in shapes}
            self._at_work[key] = cases_at(self.source.module(), signature, named)
        return self._at_work[key]

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
