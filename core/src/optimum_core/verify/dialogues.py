"""Comparison of a decoder with eager over many calls of one state: what a single forward pass cannot show.

A dialogue feeds a text piece by piece: in one piece and in several, by one token and by more, padded on the left and in
a further piece, after rows were exchanged, positions removed and the state copied, beyond a sliding window, and a
second text after the first. Eager's answer is that to the whole text so far, without a cache. The last dialogue is
eager's own greedy text with eager's own cache: a candidate whose scores have the same arg-max at every step writes the
same text. Behind an encoder, dialogues have inputs for that, some rows padded, which go with their rows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from optimum_core.errors import OptimumError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.generation.encoder_decoder_session import EncodedOnce, EncoderDecoder
from optimum_core.models.references.eager_dialogues import PictureText, picture_texts, written
from optimum_core.models.references.whole_texts import (
    WholeTexts,
    eager_behind,
    eager_decoder,
    text_tokens,
)
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.types import CaseResult, Fidelity
from optimum_core.types.arrays import NDArray
from optimum_core.verify.comparison import compare, failed, tolerance_of
from optimum_core.verify.divergence import Divergence

Drives = Decoder | EncoderDecoder | EncodedOnce
log = logging.getLogger(__name__)

#: Tokens of eager's greedy text, and the seconds after which no more are made.
GREEDY, DIALOGUE_SECONDS = 64, 10.0
#: Most expected seconds for the dialogue beyond a sliding window.
_WINDOW_SECONDS = 20.0
#: Most numbers of expected scores that one dialogue holds: 400 MB.
_MOST_SCORES = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One step of a dialogue.

    Attributes:
        kind: "feed" new tokens; "crop" to `length`, "reorder" to `rows`; "fork", after which later turns of the `copy`
            go on from here too.
        copy: the turn is of the copy.
        mask: of all positions; None: the new ones are tokens.
        want: eager's logits of the new positions, for those in `valid`.
    """

    kind: Literal["feed", "crop", "reorder", "fork"]
    ids: NDArray | None = None
    mask: NDArray | None = None
    want: NDArray | None = None
    valid: NDArray | None = None
    length: int = 0
    rows: tuple[int, ...] = ()
    copy: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialogue:
    """Several calls of one state, with eager's answers.

    Attributes:
        before: the inputs of the encoder; None: there is none.
    """

    name: str
    rows: int
    turns: tuple[Turn, ...]
    before: Mapping[str, NDArray] | None = None


class _Script:
    """A dialogue being written: what the state holds, and eager's answers to it."""

    def __init__(
        self, module: Any, signature: ModelSignature, rows: int, seed: int, eager: EncodedOnce | None = None
    ) -> None:
        assert signature.decoder is not None
        self.texts = WholeTexts(module, signature, rows, eager)
        # What reads ahead reads a text in pieces otherwise than in one: eager's own cache is the reference then.
        merge = signature.decoder.merge
        reads_ahead = merge is not None and merge.reads_ahead
        self._own = eager_decoder(module, signature).begin(rows) if reads_ahead else None
        self._other: Generation | None = None
        self._tokens = text_tokens(module, signature)
        self._rng = np.random.default_rng(seed)
        self.ids = np.zeros((rows, 0), np.int64)
        self.mask = np.zeros((rows, 0), np.int64)
        self.turns: list[Turn] = []

    def feed(self, new: int, padding: Sequence[int] = (), *, copy: bool = False) -> _Script:
        rows = len(self.ids)
        ids = self._rng.choice(self._tokens, (rows, new))
        mask = np.ones((rows, new), np.int64)
        for row, count in enumerate(padding):
            mask[row, :count] = 0
        whole, seen = np.concatenate([self.ids, ids], 1), np.concatenate([self.mask, mask], 1)
        want = self._answer(whole, seen, new, copy=copy)
        self.turns.append(Turn(kind="feed", ids=ids, mask=seen, want=want[mask == 1], valid=mask == 1, copy=copy))
        if not copy:
            self.ids, self.mask = whole, seen
        return self

    def _answer(self, whole: NDArray, seen: NDArray, new: int, *, copy: bool) -> NDArray:
        own = self._other if copy else self._own
        if own is not None:
            return own.feed(whole[:, -new:], seen, "counts")
        return self.texts.logits(whole, seen)[:, -new:]

    def crop(self, length: int) -> _Script:
        if self._own is not None:
            self._own.crop(length)
        self.ids, self.mask = self.ids[:, :length], self.mask[:, :length]
        self.turns.append(Turn(kind="crop", length=length))
        return self

    def reorder(self, *rows: int) -> _Script:
        self.ids, self.mask = self.ids[list(rows)], self.mask[list(rows)]
        self.texts.select(rows)
        if self._own is not None:
            self._own.reorder(rows)
        self.turns.append(Turn(kind="reorder", rows=rows))
        return self

    def fork(self) -> _Script:
        self._other = self._own.fork() if self._own is not None else None
        self.turns.append(Turn(kind="fork"))
        return self


def drawn_dialogues(module: Any, signature: ModelSignature) -> tuple[Dialogue | PictureText, ...]:
    """Return dialogues with eager's answers; the shortest first, eager's greedy text last."""
    eager = eager_behind(module, signature)

    def script(rows: int, seed: int) -> _Script:
        return _Script(module, signature, rows, seed, eager)

    found = {
        "a prompt, then single tokens": script(1, 1).feed(6).feed(1).feed(1).feed(1),
        "padding on the left, then several tokens": script(3, 2).feed(7, (0, 2, 4)).feed(3).feed(1).feed(1),
        "in pieces, rows exchanged": script(3, 3)
        .feed(5, (1, 0, 3))
        .feed(4)
        .reorder(2, 0, 0)
        .feed(1)
        .reorder(1, 2)
        .feed(2),
        **_second_text(script(2, 4), signature),
        "padding in a further piece": script(2, 8).feed(5).feed(4, (0, 2)).feed(1),
        "two ways from one state": script(2, 5).feed(5, (2, 0)).fork().feed(3, copy=True).feed(1).feed(2),
    }
    if (beyond := _beyond_the_window(module, signature, eager)) is not None:
        found["beyond the sliding window"] = beyond
    made = [
        Dialogue(name=name, rows=_rows(item), turns=tuple(item.turns), before=item.texts.before)
        for name, item in found.items()
    ]
    return (*made, *_behind_pictures(module, signature), _greedy(module, signature, eager))


def _second_text(script: _Script, signature: ModelSignature) -> dict[str, _Script]:
    """Return the dialogue that begins anew, after positions were removed where the state allows that."""
    assert signature.decoder is not None
    script.feed(7)
    if crops := signature.decoder.state.crop:
        script.crop(4)
    script.feed(3).feed(1).crop(0).feed(5, (0, 2)).feed(1)
    return {"positions removed, then a second text" if crops else "a second text": script}


def _behind_pictures(module: Any, signature: ModelSignature) -> Iterator[PictureText]:
    """Yield eager's greedy texts behind pictures or sound, where the model takes such."""
    assert signature.decoder is not None
    if signature.decoder.merge is None:
        return
    size = int(signature.decoder.outputs[0].shape[-1])
    room = (signature.longest_text or 2 * GREEDY) - signature.layout.lengths.get("sequence", 0) - 8
    most = max(1, min(GREEDY, _MOST_SCORES // (4 * size), room))
    yield from picture_texts(module, signature, most, DIALOGUE_SECONDS)


def _rows(script: _Script) -> int:
    first = script.turns[0].ids
    assert first is not None
    return len(first)


def _beyond_the_window(module: Any, signature: ModelSignature, eager: EncodedOnce | None) -> _Script | None:
    """Return a dialogue beyond the widest window; None: there is no window, or eager would take too long."""
    assert signature.decoder is not None
    windows = [layer.window for layer in signature.decoder.state.layers if layer.window is not None]
    if not windows:
        return None
    window = max(windows)
    start, busy = time.perf_counter(), time.process_time()
    script = _Script(module, signature, 2, 6, eager).feed(min(window, 32))
    taken = min(time.perf_counter() - start, time.process_time() - busy)  # the lesser, as on a busy machine
    expected = 6 * taken * window / min(window, 32)
    longest = signature.longest_text
    if expected > _WINDOW_SECONDS or (longest is not None and window + 8 > longest):
        log.info("nothing beyond the sliding window of %d is compared", window)
        return None
    script = _Script(module, signature, 2, 6, eager).feed(window - 2, (0, 3)).feed(4).feed(1).feed(1)
    return script.crop(0).feed(window + 5, (2, 0)).feed(1) if window <= _SMALL else script


#: Windows up to which a prompt longer than the window is compared in one piece too.
_SMALL = 512


def _greedy(module: Any, signature: ModelSignature, eager: EncodedOnce | None) -> Dialogue:
    """Return eager's greedy text of three rows, with its own cache."""
    assert signature.decoder is not None
    described, texts = signature.decoder, WholeTexts(module, signature, 3, eager)
    before = texts.before
    decoder = eager_decoder(module, signature) if before is None or eager is None else eager.after(before)
    generation = decoder.begin(3)
    ids = np.random.default_rng(7).choice(text_tokens(module, signature), (3, 8))
    mask = np.ones_like(ids)
    mask[1, :3] = mask[2, :6] = 0
    if before is not None and not _remembers_padding(decoder, texts, ids, mask):
        log.info("its decoder reads padding in its cache as tokens: eager's greedy text has none")
        mask[:] = 1
    turns, end = list[Turn](), time.perf_counter() + DIALOGUE_SECONDS
    given: NDArray | None = mask
    size = int(described.outputs[0].shape[-1])
    most = min(GREEDY, _MOST_SCORES // (3 * size), (signature.longest_text or GREEDY + 8) - 8)
    while len(turns) < most and (len(turns) < 4 or time.perf_counter() < end):
        try:
            logits = generation.feed(ids, given, "counts")
        except SessionError as error:  # no further positions, which a call of the whole text may have
            log.info("eager's greedy text ends: %s", error.why)
            break
        valid = np.ones(ids.shape, bool) if given is None else given == 1
        turns.append(Turn(kind="feed", ids=ids, mask=given, want=logits[valid], valid=valid))
        ids, given = logits[:, -1:].argmax(-1), None
    generation.close()
    return Dialogue(name=f"eager's greedy text, {len(turns)} tokens", rows=3, turns=tuple(turns), before=before)


def _remembers_padding(decoder: Decoder, texts: WholeTexts, ids: NDArray, mask: NDArray) -> bool:
    """Whether eager leaves out the padding in its own cache when it answers to one token more, as it does when it
    answers to the whole text: LED does not."""
    generation = decoder.begin(len(ids))
    generation.feed(ids, mask, "counts")
    step = generation.feed(ids[:, -1:], None, "counts")
    generation.close()
    whole = texts.logits(np.concatenate([ids, ids[:, -1:]], 1), np.concatenate([mask, mask[:, -1:]], 1))
    return compare("", {}, "logits", whole[:, -1:], step, tolerance_of("fp32")).passed


def with_dialogues(fidelity: Fidelity, drives: Drives, dialogues: Sequence[Dialogue | PictureText]) -> Fidelity:
    """Return a fidelity with the comparison of dialogues; it ends with the first that fails."""
    results, drives = list(fidelity.results), encoding_once(drives)
    for dialogue in dialogues:
        if isinstance(dialogue, PictureText):
            results.append(_written_again(drives, dialogue, fidelity.precision))
        else:
            results.append(_compared(drives, dialogue, fidelity.precision))
        if not results[-1].passed:
            break
    return replace(fidelity, results=tuple(results))


def encoding_once(drives: Drives) -> Drives:
    """Return what drives a candidate in dialogues, its encoder reading each row once."""
    return EncodedOnce(drives) if isinstance(drives, EncoderDecoder) else drives


def _written_again(drives: Any, text: PictureText, precision: str) -> CaseResult:
    """Return the comparison of a candidate's scores with eager's, for eager's own text behind pictures."""
    shapes = {name: array.shape for name, array in text.inputs.items()}
    try:
        _, have = written(drives.face(), text.inputs, text.tokens.shape[1], DIALOGUE_SECONDS, text.tokens)
    except OptimumError as error:
        return failed(text.name, shapes, "logits", f"it does not run: {error.why}")
    if have.shape != text.want.shape:
        return failed(text.name, shapes, "logits", f"shape {have.shape}, eager gives {text.want.shape}")
    found = Divergence()
    found.add(text.want.reshape(-1, text.want.shape[-1]), have.reshape(-1, have.shape[-1]))
    whole = compare(text.name, shapes, "logits", text.want, have, tolerance_of(precision))
    return replace(whole, divergence=found.mean) if whole.passed else whole


def _compared(drives: Drives, dialogue: Dialogue, precision: str) -> CaseResult:
    first = dialogue.turns[0].ids
    assert first is not None
    shapes = {"input_ids": first.shape}
    wanted, given, note = list[NDArray](), list[NDArray](), ""
    try:
        for turn, answer in play(drives, dialogue):
            if answer is None:
                continue
            assert turn.want is not None and turn.valid is not None
            wanted.append(turn.want)
            given.append(np.asarray(answer, np.float32)[turn.valid])
    except UnavailableError as error:
        note = f"not all of it: {error.why}"
    except OptimumError as error:
        return failed(dialogue.name, shapes, "logits", f"it does not run: {error.why}")
    tolerance = tolerance_of(precision)
    want, have = np.concatenate(wanted), np.concatenate(given)
    if want.shape != have.shape:
        return failed(dialogue.name, shapes, "logits", f"shape {have.shape}, eager gives {want.shape}")
    whole = compare(dialogue.name, shapes, "logits", want, have, tolerance)
    if whole.passed:
        found = Divergence()
        found.add(want, have)
        return replace(whole, note=note, divergence=found.mean)
    parts = [compare("", shapes, "logits", a, b, tolerance).passed for a, b in zip(wanted, given, strict=True)]
    place = f" (from its call {parts.index(False) + 1} on)" if False in parts else ""
    return replace(whole, problem=whole.problem + place)


def play(drives: Drives, dialogue: Dialogue) -> Iterator[tuple[Turn, NDArray | None]]:
    """Yield every turn with the candidate's answer; the state has no answer to those that do not feed."""
    decoder = drives if isinstance(drives, Decoder) else drives.after(dialogue.before or {})
    generations: list[Generation] = [decoder.begin(dialogue.rows)]
    try:
        for turn in dialogue.turns:
            generation = generations[-1] if turn.copy else generations[0]
            if turn.kind == "feed":
                assert turn.ids is not None
                yield turn, generation.feed(turn.ids, turn.mask, "counts")
                continue
            if turn.kind == "crop":
                generation.crop(turn.length)
            elif turn.kind == "reorder":
                generation.reorder(turn.rows)
            else:
                generations.append(generation.fork())
            yield turn, None
    finally:
        for generation in generations:
            generation.close()
