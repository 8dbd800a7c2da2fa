"""Texts written together by a backend's continuous batching, and its comparison with the decoder's own tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.error_scales import tie_scales
from optimum_core.errors import InputError, UnavailableError, VerificationError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.scores import Scoring
from optimum_core.generation.settings import Settings, read_settings
from optimum_core.generation.state_batch import ScoredProgress, StateBatch
from optimum_core.generation.text import Prompt, TextCodec, TextStream
from optimum_core.types import (
    ContinuousBatch,
    ContinuousLimits,
    ContinuousSession,
    JoiningSession,
    Progress,
    Sampling,
)
from optimum_core.types.arrays import NDArray

#: Lengths of the prompts that are compared, and the tokens written behind each: one and several blocks of the cache.
_LENGTHS, _NEW = (1, 5, 33, 70), 12


@dataclass(kw_only=True, slots=True, eq=False)
class BatchedText:
    """One text that is being written.

    Attributes:
        scoring: makes a `ScoredPiece` of each piece; None: pieces are texts alone.
        pieces: the text that is new since the last step, a piece for each token, which may be empty; once it has ended,
            the rest comes last, as a `LastPiece`.
        ended: no more comes.
    """

    number: int
    eos: frozenset[int]
    stream: TextStream
    scoring: Scoring | None = None
    pieces: list[str] = field(default_factory=list)
    ended: bool = False

    def put(self, progress: Progress) -> None:
        """Take the tokens of a step, up to one that ends the text or a stop string."""
        self.pieces, is_end, ended = [], False, progress.ended
        if self.scoring is not None and isinstance(progress, ScoredProgress):
            self.scoring.note(progress.scores, np.asarray(progress.tokens))
        for token in progress.tokens:
            is_end = token in self.eos
            piece = "" if is_end else self.stream.put(token)
            self.pieces.append(piece if is_end or self.scoring is None else self.scoring.scored(0, piece))
            if is_end or self.stream.ended:
                ended = True
                break
        if ended:
            self.pieces.append(self.stream.finish(is_complete=is_end))
            self.ended = True


class ContinuousTexts:
    """Writes many texts at once: each step gives every one of them its next token. One thread uses it at a time.

    Args:
        check: refuses ids [1, length] that the model does not have.

    Attributes:
        tool: the distribution that batches, with its version.
    """

    def __init__(
        self,
        batch: ContinuousBatch,
        codec: TextCodec,
        directory: Path,
        longest: int | None,
        check: Callable[[NDArray], None],
    ) -> None:
        self.tool = batch.tool
        self._batch, self._codec, self._directory, self._check = batch, codec, directory, check
        self._most = batch.positions if longest is None else min(longest, batch.positions)
        self._running: dict[int, BatchedText] = {}

    def takes(self, length: int, *, logprobs: int | None = None, **settings: Any) -> bool:
        """Whether texts of these settings, those of `generate`, are written as `generate` would.

        A batch of joined states takes all settings; that of a runtime takes no draws with a seed, and no `logprobs`.

        Args:
            length: of the prompt, in tokens.

        Raises:
            OptionError: as `generate`.
        """
        sampling = self._sampling(read_settings(self._directory, settings), length, logprobs)
        return sampling is not None and length + sampling.max_new_tokens <= self._most

    def _sampling(self, settings: Settings, length: int, logprobs: int | None) -> Sampling | Settings | None:
        """Return the settings of a prompt of this length for the batch; None: it cannot honour one of them."""
        if not isinstance(self._batch, StateBatch):
            return sampling_of(settings, length) if logprobs is None else None
        try:
            return settings.for_prompt(length)
        except InputError:  # there is no room behind the prompt
            return None

    def begin(
        self, prompt: Prompt, stop: Sequence[str] = (), *, logprobs: int | None = None, **settings: Any
    ) -> BatchedText:
        """Begin a text.

        Args:
            logprobs: as `generate`: each piece is a `ScoredPiece` with so many likeliest tokens.

        Raises:
            OptionError: as `generate`.
            InputError: the prompt is empty, or together with the new tokens beyond what model or cache hold.
            UnavailableError: `takes` is False for these settings.
        """
        ids = self._codec.encode([prompt], 0)[0][0]
        self._check(ids[None])
        stated = read_settings(self._directory, settings)
        sampling = self._sampling(stated, len(ids), logprobs)
        if sampling is None:
            raise UnavailableError("continuous batching", "these settings have no equal in it", "use generate")
        needed = len(ids) + sampling.max_new_tokens
        if needed > self._most:
            why = f"prompt and new tokens come to {needed} positions, and there are {self._most}"
            raise InputError("continuous batching", why, "shorten the prompt, or ask for fewer new tokens")
        number = self._begun(ids.tolist(), sampling)
        stream = TextStream(codec=self._codec, stops=tuple(stop))
        scoring = None if logprobs is None else Scoring(self._codec.tokenizer, logprobs)
        text = BatchedText(number=number, eos=frozenset(stated.eos), stream=stream, scoring=scoring)
        self._running[number] = text
        return text

    def _begun(self, ids: Sequence[int], sampling: Sampling | Settings) -> int:
        if isinstance(self._batch, StateBatch):
            return self._batch.add(ids, sampling)
        assert isinstance(sampling, Sampling)
        return self._batch.add(ids, sampling)

    def step(self) -> list[BatchedText]:
        """Run the model once; return the texts that have new `pieces`.

        Raises:
            SessionError: the runtime failed; all texts are lost.
        """
        stepped = []
        for number, progress in self._batch.step().items():
            text = self._running.get(number)
            if text is None:
                continue
            text.put(progress)
            if text.ended:
                self.cancel(text)
            stepped.append(text)
        return stepped

    def cancel(self, text: BatchedText) -> None:
        """End a text, and free its memory."""
        if self._running.pop(text.number, None) is not None:
            self._batch.cancel(text.number)

    def close(self) -> None:
        """End all texts, and free the memory."""
        self._running.clear()
        self._batch.close()


def compared_batch(
    who: str, decoder: Decoder, limits: ContinuousLimits, vocabulary: int, tolerance: float
) -> ContinuousBatch:
    """Return an empty batch whose tokens are the decoder's own, as `difference` compares them.

    Raises:
        UnavailableError: the backend has none for this model, or there are too few positions.
        VerificationError: its tokens are others.
    """
    batch = _batch_of(decoder, limits)
    try:
        if (most := _most_positions(batch, decoder)) <= _NEW:
            why = f"there are {most} positions, too few to compare its tokens"
            raise UnavailableError(who, why, "give it more memory, or write one text after another")
        if problem := difference(batch, decoder, vocabulary, tolerance):
            raise VerificationError(f"{who}, {batch.tool}", problem, "generate without it")
    except BaseException:
        batch.close()
        raise
    return batch


def _batch_of(decoder: Decoder, limits: ContinuousLimits) -> ContinuousBatch:
    """Return an empty batch: that of the backend's runtime, else one that joins the backend's states.

    Raises:
        UnavailableError: the backend has neither for this model.
    """
    if not isinstance(decoder.session, ContinuousSession):
        return StateBatch(decoder, limits)
    try:
        return decoder.session.continuous(limits)
    except UnavailableError:
        if not isinstance(decoder.session, JoiningSession):
            raise
        return StateBatch(decoder, limits)


def sampling_of(settings: Settings, length: int) -> Sampling | None:
    """Return the settings of a prompt of this length for a continuous batch; None: one of them has no equal there.

    Not equal are: draws with a seed, which come from another generator; `min_p`, which is applied in another order;
    penalties by count, and biases; and all that forbids or forces tokens.
    """
    try:
        settings = settings.for_prompt(length)
    except InputError:  # there is no room behind the prompt
        return None
    never = (settings.bad_words_ids, settings.suppress_tokens, settings.begin_suppress_tokens, settings.forced_eos)
    weights = (settings.presence_penalty, settings.frequency_penalty, settings.logit_bias)
    others = (settings.no_repeat_ngram_size, settings.min_new_tokens, *never, *weights)
    if any(others) or settings.forced_bos is not None:
        return None
    if settings.do_sample and (settings.seed is not None or settings.min_p):
        return None
    return Sampling(
        max_new_tokens=settings.max_new_tokens,
        eos=settings.eos,
        do_sample=settings.do_sample,
        temperature=settings.temperature,
        top_k=settings.top_k or None,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
    )


# Comparison with the decoder's own tokens.


def difference(batch: ContinuousBatch, decoder: Decoder, vocabulary: int, tolerance: float) -> str:
    """Return how the tokens of a continuous batch differ from the decoder's own likeliest; "": not at all.

    Prompts of several lengths are read together, and then two that begin as one of them, for which keys and values are
    there already. Each token has to be the likeliest of the decoder after those before it, or as likely within the
    tolerance; so what is equal here is equal token by token.

    Args:
        tolerance: of scores, relative to the greatest.
    """
    prompts = _prompts(vocabulary, _most_positions(batch, decoder))
    first, again = prompts[:-2], prompts[-2:]
    for prompt, tokens in (*_written(batch, first), *_written(batch, again)):
        if problem := _problem(decoder, prompt, tokens, tolerance):
            return problem
    return ""


def _most_positions(batch: ContinuousBatch, decoder: Decoder) -> int:
    """Return the greatest number of positions for which there is memory, and that the model has."""
    return batch.positions if decoder.longest is None else min(decoder.longest, batch.positions)


def _prompts(vocabulary: int, longest: int) -> list[list[int]]:
    most = max(min(longest - _NEW, max(_LENGTHS)), 1)
    rng = np.random.default_rng(0)
    made = [rng.integers(0, vocabulary, min(length, most)).tolist() for length in _LENGTHS]
    last = made[-1]
    changed = [*last[: -max(len(last) // 10, 1)], *made[0]]
    return [*made, last, changed]


def _written(batch: ContinuousBatch, prompts: Sequence[list[int]]) -> list[tuple[list[int], list[int]]]:
    found: Mapping[int, tuple[list[int], list[int]]] = {
        batch.add(prompt, Sampling(max_new_tokens=_NEW)): (prompt, []) for prompt in prompts
    }
    running = set(found)
    while running:
        for number, progress in batch.step().items():
            found[number][1].extend(progress.tokens)
            if progress.ended:
                running.discard(number)
    return list(found.values())


def _problem(decoder: Decoder, prompt: list[int], tokens: list[int], tolerance: float) -> str:
    if len(tokens) != _NEW:
        return f"{len(tokens)} tokens came where {_NEW} were asked for"
    ids = np.array([[*prompt, *tokens[:-1]]], np.int64)
    generation = decoder.begin(1)
    try:
        scores = generation.feed(ids, None, "counts", np.arange(len(prompt) - 1, ids.shape[1]))[0]
    finally:
        generation.close()
    gaps = scores.max(-1) - scores[np.arange(_NEW), tokens]
    usual = tie_scales(np.where(np.isfinite(scores), scores, 0.0), scores.max(-1))
    worst = float((gaps / usual.clip(1e-12)).max())
    if worst <= tolerance:
        return ""
    number = int((gaps > 0).argmax())
    return (
        f"behind {len(prompt)} tokens, token {number + 1} is {tokens[number]}, and the decoder's own is "
        f"{int(scores[number].argmax())}"
    )
