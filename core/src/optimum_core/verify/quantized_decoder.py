"""Verification of a quantized decoder: its memory is compared exactly, and its scores with eager's, by tolerance.

Rounding hides small errors of a cache, and a comparison with eager would not see them. So a quantized decoder is
compared with itself first: what it answers over a whole dialogue must be what it answers to each row alone, from its
first token on, in one call of a new state. Such a call has nothing to remember. Then its scores are compared
with eager's over text: data that calibration did not see, or eager's own greedy text. Both are told the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from optimum_core.errors import OptimumError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.models.references.eager_dialogues import PictureText, written
from optimum_core.types import CaseResult, Fidelity, TensorSpec
from optimum_core.types.arrays import ArrayMapping, NDArray
from optimum_core.verify.comparison import NO_LIMIT, ReferenceCase, Tolerance, compare, failed, tolerance_of, verify
from optimum_core.verify.dialogues import DIALOGUE_SECONDS, Dialogue, Drives, Turn, encoding_once, play
from optimum_core.verify.divergence import Divergence


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderReference:
    """The answers that a quantized decoder is compared with.

    Attributes:
        drawn: cases of random inputs, compared in form.
        dialogues: calls that continue from a cache, eager's greedy text last.
        unseen: texts that calibration did not see, one row each without padding; none: eager's greedy text.
        outputs: of a forward pass.
        behind: eager's greedy texts behind pictures or sound.
    """

    drawn: tuple[ReferenceCase, ...]
    dialogues: Sequence[Dialogue]
    unseen: tuple[ReferenceCase, ...]
    outputs: tuple[TensorSpec, ...]
    behind: Sequence[PictureText] = ()


def verify_decoder(
    drives: Drives,
    run: Callable[[ArrayMapping], Mapping[str, Any]],
    reference: DecoderReference,
    *,
    precision: str,
    arithmetic: str,
    agreement: float | None = None,
    binding: bool = True,
) -> Fidelity:
    """Compare a quantized decoder with itself and with the eager model.

    Args:
        drives: the decoder, or what gives decoders behind an encoder.
        run: a forward pass.
        precision: of the weights; its tolerance holds for the scores.
        arithmetic: the precision whose tolerance holds for the decoder against itself.
        agreement: the least share of the same arg-max, instead of the precision's own.
        binding: False reports how far the scores are off, and lets a promise decide.
    """
    tolerance = tolerance_of(precision)
    limits = tolerance if agreement is None else replace(tolerance, agreement=agreement)
    form = verify(run, reference.drawn, reference.outputs, precision=precision, tolerance=NO_LIMIT)
    wrong = tuple(result for result in form.results if not result.passed)
    results, drives = list(wrong), encoding_once(drives)
    if not wrong:
        results += [_remembers(drives, dialogue, tolerance_of(arithmetic)) for dialogue in reference.dialogues]
    if all(result.passed for result in results):
        results.append(_near(drives, reference, limits if binding else NO_LIMIT))
        results += [_near_behind(drives, text, limits if binding else NO_LIMIT) for text in reference.behind]
    return Fidelity(
        precision=precision,
        tolerance=tolerance.relative,
        results=tuple(results),
        formed=0 if wrong else len(reference.drawn),
    )


# The decoder against itself.


def _remembers(drives: Drives, dialogue: Dialogue, tolerance: Tolerance) -> CaseResult:
    """Return the comparison of a dialogue with each of its rows alone, in one call without padding before it."""
    name = f"{dialogue.name}: as each row alone"
    told, results, note = [_Told.of(dialogue)], list[CaseResult](), ""

    def settle(one: _Told) -> None:
        results.extend(one.settled(drives, name, tolerance))

    try:
        for turn, answer in play(drives, dialogue):
            one = told[-1] if turn.copy else told[0]
            if turn.kind == "feed":
                assert answer is not None
                one.feed(turn, answer)
                continue
            settle(one)
            told += [one.change(turn)] if turn.kind == "fork" else []
            if turn.kind != "fork":
                told[told.index(one)] = one.change(turn)
        for one in told:
            settle(one)
    except UnavailableError as error:
        note = f"not all of it: {error.why}"
    except OptimumError as error:
        return failed(name, {}, "logits", f"it does not run: {error.why}")
    worst = max(results, key=lambda item: (not item.passed, item.relative_error))
    return replace(worst, note=note, agreement=None)


@dataclass(kw_only=True, slots=True, eq=False)
class _Told:
    """The tokens that one state was told, and its answers since they were last compared.

    Attributes:
        ids, mask: [rows, length].
        before: the inputs of the encoder; None: there is none.
        start: the position of the first answer.
    """

    ids: NDArray
    mask: NDArray
    before: Mapping[str, NDArray] | None = None
    start: int = 0
    answers: list[NDArray] = field(default_factory=list)

    @classmethod
    def of(cls, dialogue: Dialogue) -> _Told:
        nothing = np.zeros((dialogue.rows, 0), np.int64)
        return cls(ids=nothing, mask=nothing, before=dialogue.before)

    def feed(self, turn: Turn, answer: NDArray) -> None:
        assert turn.ids is not None
        self.ids = np.concatenate([self.ids, turn.ids], 1)
        new = np.ones_like(turn.ids)
        self.mask = np.concatenate([self.mask, new], 1) if turn.mask is None else turn.mask
        self.answers.append(answer)

    def change(self, turn: Turn) -> _Told:
        """Return what the state holds after rows were exchanged, positions removed, or the state copied."""
        ids, mask, before = self.ids, self.mask, self.before
        if turn.kind == "crop":
            ids, mask = ids[:, : turn.length], mask[:, : turn.length]
        elif turn.kind == "reorder":
            ids, mask, before = ids[list(turn.rows)], mask[list(turn.rows)], _rows_of(before, turn.rows)
        return _Told(ids=ids, mask=mask, before=before, start=ids.shape[1])

    def settled(self, drives: Drives, name: str, tolerance: Tolerance) -> list[CaseResult]:
        """Compare the answers with those to every row alone; later answers are compared by themselves."""
        if not self.answers:
            return []
        given = np.concatenate(self.answers, 1)
        rows = [row for row in range(len(given)) if self.mask[row, self.start :].any()]
        found = [self._row(drives, row, given[row], name, tolerance) for row in rows]
        self.start, self.answers = self.ids.shape[1], []
        return found

    def _row(self, drives: Drives, row: int, given: NDArray, name: str, tolerance: Tolerance) -> CaseResult:
        kept = self.mask[row] == 1
        new = kept[self.start :]
        # Padding between tokens stays: relative positions count it, and convolutions see it.
        first = int(kept.argmax())
        ids, mask = self.ids[row : row + 1, first:], self.mask[row : row + 1, first:]
        decoder = drives if isinstance(drives, Decoder) else drives.after(_rows_of(self.before, [row]) or {})
        alone = _answer(decoder, ids, self.start - first + np.flatnonzero(new), None if mask.all() else mask)
        return compare(name, {"input_ids": ids.shape}, "logits", alone, np.asarray(given[new], np.float32), tolerance)


def _rows_of(before: Mapping[str, NDArray] | None, rows: Sequence[int]) -> Mapping[str, NDArray] | None:
    return None if before is None else {name: array[list(rows)] for name, array in before.items()}


def _answer(decoder: Decoder, ids: NDArray, keep: NDArray, mask: NDArray | None = None) -> NDArray:
    generation = decoder.begin(1)
    try:
        return np.asarray(generation.feed(ids, mask, "counts", keep)[0], np.float32)
    finally:
        generation.close()


# The decoder against eager.


def _near(drives: Drives, reference: DecoderReference, limits: Tolerance) -> CaseResult:
    """Return how far the scores are from eager's over text."""
    found = Divergence()
    name = "unseen data" if reference.unseen else "eager's greedy text"
    try:
        if reference.unseen:
            for case in reference.unseen:
                assert isinstance(drives, Decoder)  # behind an encoder there are no such rows
                ids = case.inputs["input_ids"]
                found.add(case.outputs["logits"][0], _answer(drives, ids, np.arange(ids.shape[1])))
        else:
            for turn, answer in play(drives, reference.dialogues[-1]):
                assert turn.want is not None and answer is not None
                found.add(turn.want, answer[turn.valid])
    except OptimumError as error:
        return failed(name, {}, "logits", f"it does not run: {error.why}")
    return _result(f"{found.tokens} tokens of {name}", found, limits)


def _near_behind(drives: Any, text: PictureText, limits: Tolerance) -> CaseResult:
    """Return how far the scores are from eager's over its own text behind pictures or sound."""
    found = Divergence()
    try:
        _, have = written(drives.face(), text.inputs, text.tokens.shape[1], DIALOGUE_SECONDS, text.tokens)
    except OptimumError as error:
        return failed(text.name, {}, "logits", f"it does not run: {error.why}")
    size = text.want.shape[-1]
    found.add(text.want.reshape(-1, size), have.reshape(-1, size))
    return _result(f"{found.tokens} tokens of {text.name}", found, limits)


def _result(name: str, found: Divergence, limits: Tolerance) -> CaseResult:
    if not found.finite:
        return failed(name, {}, "logits", "NaN or infinity where eager has none")
    error, cosine, agreement = found.relative_error, found.cosine, found.agreement
    problems = [
        f"relative error {error:.2g} > {limits.relative:g}" if error > limits.relative else "",
        f"cosine {cosine:.4f} < {limits.cosine}" if cosine < limits.cosine else "",
        f"arg-max agrees on {agreement:.1%} < {limits.agreement:.1%}" if agreement < limits.agreement else "",
    ]
    problem = "; ".join(filter(None, problems))
    return CaseResult(
        case=name,
        shapes={},
        output="logits",
        relative_error=error,
        cosine=cosine,
        agreement=agreement,
        passed=not problem,
        problem=problem,
        divergence=found.mean,
    )
