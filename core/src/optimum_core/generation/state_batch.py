"""Continuous batching by a backend's own states: between two calls, rows of several generations are joined in one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.generation.sampling import Choose, allowed, chooser, needs_history
from optimum_core.generation.settings import Settings
from optimum_core.types import ContinuousLimits, JoiningSession, Progress, Sampling
from optimum_core.types.arrays import NDArray

#: Bytes of a number in keys and values.
_BYTES = 4
#: New tokens of each row for which memory is free when a row joins. Most texts end long before the number of tokens
#: that they may have: rows that were counted at that length would wait for memory that is never written.
_AHEAD = 128


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredProgress(Progress):
    """The new token of one generation, with the model's scores [1, vocabulary] for it."""

    scores: NDArray


@dataclass(kw_only=True, slots=True, eq=False)
class _TextRow:
    """One text.

    Attributes:
        ids: of its prompt, and of what has been written.
        length: the number of ids of its prompt.
        settings: for a prompt of this length.
        read: ids that the model has read, before the row is joined to the others.
        has_history: the choice of a token depends on those before it.
        generation: reads the ids, until the row is joined to the others.
    """

    number: int
    ids: list[int]
    length: int
    settings: Settings
    choose: Choose
    has_history: bool
    read: int = 0
    generation: Generation | None = None
    ended: bool = False

    @property
    def soon(self) -> int:
        """The positions that it takes after some more tokens, or at its end."""
        return min(self.length + self.settings.max_new_tokens, len(self.ids) + _AHEAD)

    def take(self, scores: NDArray) -> ScoredProgress:
        """Choose the next token by its scores [1, vocabulary]."""
        number = len(self.ids) - self.length + 1
        # Many ids take longer to convert than the choice does.
        before = np.array([self.ids if self.has_history else self.ids[-1:]])
        token = int(self.choose(before, allowed(scores, self.settings, number, self.length, before))[0])
        self.ids.append(token)
        self.ended = self.ended or token in self.settings.eos or number == self.settings.max_new_tokens
        return ScoredProgress(tokens=(token,), ended=self.ended, scores=scores)

    def release(self) -> None:
        """Free the state of its own; what it has read has to be read again."""
        self.read = 0
        if self.generation is not None:
            self.generation.close()
            self.generation = None


class StateBatch:
    """A `ContinuousBatch` on the states of a decoder session that joins them.

    Each prompt is read by itself, in pieces; then its row is joined to the others, aligned at their last token, and
    each call gives all rows their next one. Rows that have ended leave when others join, as soon as they are half of
    all, or when the model or the memory has no further positions for them. If the rows that go on need more memory than
    there is, the newest one waits again, and all of it is read anew once others have ended.

    Args:
        decoder: of a `JoiningSession`.

    Raises:
        UnavailableError: it is none, or its model keeps states of a fixed size or reads no mask.
    """

    def __init__(self, decoder: Decoder, limits: ContinuousLimits) -> None:
        session: Any = decoder.session
        is_joining = isinstance(session, JoiningSession) and not decoder.reads_no_mask
        if not is_joining or any(layer.kind != "key-value" or layer.has_fixed_states for layer in session.state.layers):
            why = f"backend {session.backend!r} does not join this model's states"
            raise UnavailableError("continuous batching", why, "write one text after another, or several in turns")
        self._decoder, self._join, self._limits = decoder, session.join, limits
        self._position: int = _BYTES * getattr(session, "held", 1) * session.state.values_of_a_position
        self._waiting: deque[_TextRow] = deque()
        self._rows: list[_TextRow] = []
        self._generation: Generation | None = None
        self._count = 0
        self._is_closed = False

    @property
    def tool(self) -> str:
        """The backend whose states are joined."""
        return f"states of backend {self._decoder.session.backend!r}"

    @property
    def positions(self) -> int:
        """The number of positions for which there is memory."""
        return self._limits.cache // self._position

    def add(self, ids: Sequence[int], sampling: Sampling | Settings) -> int:
        """Begin a generation, and return its number.

        Args:
            sampling: settings, where they are for a prompt of this length, are honoured as `next_tokens` does, a seed
                and tokens that are forbidden or forced included.

        Raises:
            InputError: there is no token, or more than memory or model have positions for.
            SessionError: the batch is closed.
        """
        self._require_open()
        needed = len(ids) + sampling.max_new_tokens
        if not ids or needed > self.positions:
            why = f"{len(ids)} tokens and {sampling.max_new_tokens} new ones, and there are {self.positions} positions"
            raise InputError(self.tool, why, "pass at least one token, and ask for fewer new ones")
        self._decoder.check_room(len(ids), sampling.max_new_tokens)
        self._count += 1
        self._waiting.append(_row(self._count, ids, sampling))
        return self._count

    def step(self) -> dict[int, ScoredProgress]:
        """Give every row its next token, and read what waits; return what is new.

        Raises:
            SessionError: the backend failed, or the batch is closed.
        """
        self._require_open()
        try:
            return self._stepped()
        except BaseException:  # rows may have tokens that the caller was not told of
            self.close()
            raise

    def _require_open(self) -> None:
        if self._is_closed:
            raise SessionError(self.tool, "the batch is closed", "begin a new one")

    def _stepped(self) -> dict[int, ScoredProgress]:
        if self._is_beyond() or self._is_full():
            self._make_room()
        found = self._written()
        joining = self._read(found)
        gone = sum(row.ended for row in self._rows)
        if joining or (gone and 2 * gone >= len(self._rows)):
            self._regroup(joining)
        return found

    def _is_beyond(self) -> bool:
        """Whether the model has no further position for a row that has ended, and would be written on."""
        longest, generation = self._decoder.longest, self._generation
        if longest is None or generation is None:
            return False
        return any(row.ended and generation.tokens(place) >= longest for place, row in enumerate(self._rows))

    def _is_full(self) -> bool:
        """Whether memory has no position for the next token of each row, those that have ended included."""
        rows = len(self._rows)
        return self._generation is not None and rows > 1 and rows * (self._generation.length + 1) > self.positions

    def _make_room(self) -> None:
        """Let rows that have ended leave, and, while memory is too small for the others, the newest of these wait."""
        going_on = [row for row in self._rows if not row.ended]
        waiting: list[_TextRow] = []
        while len(going_on) > 1 and len(going_on) * max(len(row.ids) for row in going_on) > self.positions:
            newest = max(going_on, key=lambda row: row.number)
            going_on.remove(newest)
            waiting.append(newest)
        self._regroup((), leaving=waiting)
        self._waiting.extendleft(waiting)
        if waiting:
            for row in self._waiting:  # what has been read of others takes memory too
                row.release()

    def _written(self) -> dict[int, ScoredProgress]:
        if self._generation is None:
            return {}
        last = np.array([row.ids[-1:] for row in self._rows], np.int64)
        scores = self._generation.feed(last, None, "counts", "last")[:, -1]
        running = [(place, row) for place, row in enumerate(self._rows) if not row.ended]
        return {row.number: row.take(scores[place : place + 1]) for place, row in running}

    def _read(self, found: dict[int, ScoredProgress]) -> list[_TextRow]:
        """Read prompts, as many tokens as one step may; return the rows that have their first token."""
        joining: list[_TextRow] = []
        budget = self._limits.tokens
        while budget > 0 and self._waiting and self._has_room(joining):
            row = self._waiting[0]
            if row.generation is None:
                row.generation = self._decoder.begin(1)
            piece = np.array([row.ids[row.read : row.read + budget]], np.int64)
            scores = row.generation.feed(piece, None, "counts", "last")[:, -1]
            row.read, budget = row.read + piece.shape[1], budget - piece.shape[1]
            if row.read == len(row.ids):
                self._waiting.popleft()
                found[row.number] = row.take(scores)
                joining.append(row)
        return joining

    def _has_room(self, joining: Sequence[_TextRow]) -> bool:
        """Whether another row fits into memory, with some more tokens of each."""
        rows = [row for row in (*self._rows, *joining) if not row.ended]
        whole = (len(rows) + 1) * max(row.soon for row in (*rows, self._waiting[0]))
        return not rows or (len(rows) < self._limits.rows and whole <= self.positions)

    def _regroup(self, joining: Sequence[_TextRow], leaving: Sequence[_TextRow] = ()) -> None:
        """Join the rows that go on in one state, and free the others and those that are leaving."""
        former = self._generation
        parts = [(row, former, place) for place, row in enumerate(self._rows) if former is not None]
        parts += [(row, row.generation, 0) for row in joining if row.generation is not None]
        going_on = [part for part in parts if not part[0].ended and all(part[0] is not row for row in leaving)]
        self._generation = self._joined([(generation, place) for _, generation, place in going_on])
        self._rows = [row for row, _, _ in going_on]
        for generation in {id(generation): generation for _, generation, _ in parts}.values():
            if generation is not self._generation:
                generation.close()
        for row in joining:
            row.generation = None

    def _joined(self, rows: Sequence[tuple[Generation, int]]) -> Generation | None:
        """Return rows of generations as one; that of a single text as it is."""
        if not rows:
            return None
        first = rows[0][0]
        return first if len(rows) == first.rows == 1 else self._decoder.joined(rows, self._join)

    def cancel(self, number: int) -> None:
        """End a generation; its memory is freed with the next ones that leave or join."""
        for row in (*self._rows, *self._waiting):
            if row.number == number:
                row.ended = True
        for row in [row for row in self._waiting if row.ended]:
            self._waiting.remove(row)
            row.release()
        if all(row.ended for row in self._rows):
            self._regroup(())

    def close(self) -> None:
        """End all generations, and free the memory."""
        self._is_closed = True
        for row in (*self._rows, *self._waiting):
            row.ended = True
            row.release()
        self._waiting.clear()
        self._regroup(())


def _row(number: int, ids: Sequence[int], sampling: Sampling | Settings) -> _TextRow:
    settings = sampling if isinstance(sampling, Settings) else _settings_of(sampling)
    return _TextRow(
        number=number,
        ids=list(ids),
        length=len(ids),
        settings=settings,
        choose=chooser(settings),
        has_history=needs_history(settings),
    )


def _settings_of(sampling: Sampling) -> Settings:
    return Settings(
        max_new_tokens=sampling.max_new_tokens,
        eos=sampling.eos,
        do_sample=sampling.do_sample,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=sampling.repetition_penalty,
    )
