"""A decoder session and the generations on it: the masks and positions of their calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from optimum_core.errors import InputError
from optimum_core.types import JoinedRow, State, StatefulSession, StateSpec, TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_core.types.state import EMBEDS

#: Runs one part of a generator: arrays by name in and out.
RunPart = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Bind = Callable[[Any], RunPart]
Positions = Literal["assumed", "counts"]


class Context:
    """Inputs of a decoder that are the same in every call of a generation: what it knows of an encoder's output.

    Args:
        arrays: by name, with one row for each row of the generation.
        origins: for each row, a number that rows of the same content share.
    """

    def __init__(self, arrays: Mapping[str, NDArray], origins: NDArray) -> None:
        self.arrays, self._origins = arrays, origins

    def __len__(self) -> int:
        return len(self._origins)

    def selected(self, rows: Sequence[int] | NDArray) -> Context:
        """Return the context of the rows with these indices; itself, where that changes nothing."""
        chosen = np.asarray(rows, np.int64)
        origins = self._origins[chosen]
        if np.array_equal(origins, self._origins):
            return self
        return Context({name: array[chosen] for name, array in self.arrays.items()}, origins)


class Decoder:
    """A decoder: begins generations on a session.

    Args:
        session: the session of a decoder.
        bind: returns the function that runs a state.
        context: behind an encoder, what it gave.

    Attributes:
        positions: the input for position ids, where the model takes them.
        main: the name of the input for what is new: ids or embeddings.
        longest: the greatest number of positions; None: unknown.
        one_by_one: a call takes one new token.
        reads_no_mask: everything it is given is a token.
        crops: positions can be removed from its states.
    """

    def __init__(self, session: StatefulSession, bind: Bind, context: Context | None = None) -> None:
        self.session, self.context = session, context
        self.longest: int | None = None
        self._bind = bind
        specs = {spec.name: spec for spec in session.inputs}
        self.positions: TensorSpec | None = specs.get("position_ids")
        self.main = EMBEDS if EMBEDS in specs else "input_ids"
        self.one_by_one = specs[self.main].shape[1] == 1
        self.reads_no_mask = specs["attention_mask"].least == 1
        state = getattr(session, "state", None)
        self.crops = state is None or bool(state.crop)

    def after(self, context: Context) -> Decoder:
        """Return the same decoder behind what an encoder gave."""
        made = type(self)(self.session, self._bind, context)
        made.longest = self.longest
        return made

    def check_room(self, prompt: int, new: int) -> None:
        """Reject more tokens than the model has positions; the last one is not read, and needs none.

        Raises:
            InputError: prompt and new tokens come to more.
        """
        self.check_positions(prompt + new - 1)

    def check_positions(self, needed: int) -> None:
        """Reject positions that the model does not have: a backend might read beyond its table.

        Raises:
            InputError: more than it has are needed.
        """
        if self.longest is not None and needed > self.longest:
            why = f"prompt and new tokens come to {needed} positions, and the model has {self.longest}"
            raise InputError(
                f"backend {self.session.backend!r}", why, "shorten the prompt, or ask for fewer new tokens"
            )

    def begin(self, rows: int) -> Generation:
        """Return a generation without any token, for this number of rows.

        Raises:
            InputError: the encoder's output has another number of rows.
        """
        if self.context is not None and len(self.context) != rows:
            why = f"{rows} rows came for the decoder, and the encoder has read {len(self.context)}"
            raise InputError(f"backend {self.session.backend!r}", why, "pass as many rows to both")
        return self.resumed(self.session.begin(rows), np.ones((rows, 0), np.int64), self.context)

    def joined(
        self, rows: Sequence[tuple[Generation, int]], join: Callable[[Sequence[JoinedRow]], State]
    ) -> Generation:
        """Return a new generation of rows of others, each by its index there, aligned at their last position.

        Args:
            join: of the session.
        """
        lengths = [one.tokens(row) for one, row in rows]
        longest = max(lengths)
        parts = [
            JoinedRow(state=one.state, row=row, length=length) for (one, row), length in zip(rows, lengths, strict=True)
        ]
        mask = (np.arange(longest) >= longest - np.array(lengths)[:, None]).astype(np.int64)
        return self.resumed(join(parts), mask, None)

    def resumed(self, state: State, mask: NDArray, context: Context | None) -> Generation:
        """Return a generation on a state that holds the positions of this mask."""
        return Generation(self, state, self._bind(state), mask, context)


class Generation:
    """The state of one generation, and the mask of its positions. One thread uses it at a time."""

    def __init__(self, decoder: Decoder, state: State, run: RunPart, mask: NDArray, context: Context | None) -> None:
        self._decoder, self._state, self._run, self._mask = decoder, state, run, mask
        self._context = context

    @property
    def length(self) -> int:
        """The number of positions, padding included."""
        return self._state.length

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._mask)

    @property
    def holds_padding(self) -> bool:
        """Whether a position of a row is no token."""
        return not self._mask.all()

    @property
    def state(self) -> State:
        """The backend's state."""
        return self._state

    def tokens(self, row: int) -> int:
        """Return the number of positions of a row that are no padding."""
        return int(self._mask[row].sum())

    @property
    def _who(self) -> str:
        return f"backend {self._decoder.session.backend!r}"

    def feed(
        self,
        ids: NDArray,
        mask: NDArray | None = None,
        positions: NDArray | Positions = "assumed",
        keep: NDArray | Literal["last", "all"] = "all",
    ) -> NDArray:
        """Run the model on new tokens; return the logits [rows, kept, vocabulary].

        Args:
            ids: int64 [rows, new].
            mask: int64 [rows, past + new]; None: the new ones are tokens.
            positions: int64 [rows, new]; "assumed": those that the original assumes where a call states none;
                "counts": the number of tokens before each, as `generate` of transformers states them.
            keep: the new positions to return logits of, from 0.

        Raises:
            InputError: there is no new token, the rows are not those of the state, the mask is not of all positions, or
                they are too many.
        """
        return self.step(ids, mask, positions, keep)

    def step(
        self,
        new_inputs: NDArray,
        mask: NDArray | None = None,
        positions: NDArray | Positions = "assumed",
        keep: NDArray | Literal["last", "all"] = "all",
        further: Mapping[str, NDArray] | None = None,
    ) -> NDArray:
        """Run the decoder itself, as `feed` does.

        Args:
            new_inputs: ids [rows, new], or embeddings [rows, new, width], as the decoder takes them.
            further: inputs of this call alone.
        """
        main, new = self._decoder.main, new_inputs.shape[1]
        if main != EMBEDS and new_inputs.dtype.kind in "iu":  # `generate` of transformers hands on ids as they came
            new_inputs = new_inputs.astype(np.int64, copy=False)
        if not new_inputs.size:
            raise InputError(self._who, f"{main} is {list(new_inputs.shape)}: there is no token", "pass at least one")
        if len(new_inputs) != self.rows:
            why = f"{len(new_inputs)} rows came, and the state has {self.rows}"
            raise InputError(self._who, why, "pass as many rows, or begin anew")
        whole = self._whole_mask(mask, new)
        if new > 1 and self._decoder.one_by_one:
            return self._stepped(new_inputs, whole, positions, keep)
        inputs: dict[str, Any] = {main: new_inputs, "attention_mask": whole, **(further or {})}
        if self._decoder.positions is not None:
            inputs["position_ids"] = self._positions(whole, new, positions)
        self._check_length(whole, inputs.get("position_ids"))
        if isinstance(keep, str):
            keep = np.arange(new) if keep == "all" else np.array([new - 1])
        inputs["logits_to_keep"] = keep
        if self._context is not None:
            inputs |= self._context.arrays
        logits: NDArray = self._run(inputs)["logits"]
        self._mask = whole
        return logits

    def _stepped(
        self, new_inputs: NDArray, mask: NDArray, positions: NDArray | Positions, keep: NDArray | Literal["last", "all"]
    ) -> NDArray:
        """Run a decoder that takes one new token in a call on several."""
        made, past, new = [], self.length, new_inputs.shape[1]
        for index in range(new):
            own = positions if isinstance(positions, str) else positions[..., index : index + 1]
            one = slice(index, index + 1)
            made.append(self.step(new_inputs[:, one], mask[:, : past + index + 1], own))
        logits = np.concatenate(made, axis=1)
        if isinstance(keep, str):
            return logits if keep == "all" else logits[:, -1:]
        return logits[:, keep]

    def _whole_mask(self, mask: NDArray | None, new: int) -> NDArray:
        if mask is None:
            return np.concatenate([self._mask, np.ones((self.rows, new), np.int64)], axis=1)
        needed = (self.rows, self.length + new)
        if mask.shape != needed:
            raise InputError(
                self._who,
                f"attention_mask is {list(mask.shape)}, and the state needs {list(needed)}",
                "state the mask of all positions, those before included; or leave it out",
            )
        if self._decoder.reads_no_mask and not mask.all():
            why = "attention_mask leaves positions out, and this decoder was exported without a mask"
            raise InputError(self._who, why, "pass texts of one length, without padding")
        return np.ascontiguousarray(mask, dtype=np.int64)

    def _check_length(self, mask: NDArray, positions: NDArray | None) -> None:
        """Reject positions that the model does not have."""
        longest = self._decoder.longest
        if longest is None or mask.shape[1] <= longest:
            return
        self._decoder.check_positions(int(positions.max()) + 1 if positions is not None else int(mask.sum(1).max()))

    def _positions(self, mask: NDArray, new: int, positions: NDArray | Positions) -> NDArray:
        assert self._decoder.positions is not None
        if isinstance(positions, str):
            positions = self._own_positions(mask, new, positions)
        axes = map(int, self._decoder.positions.shape[:-2])
        return np.array(np.broadcast_to(positions, (*axes, len(mask), new)), dtype=np.int64, order="C")

    def _own_positions(self, mask: NDArray, new: int, positions: Positions) -> NDArray:
        assert self._decoder.positions is not None
        if positions == "counts":
            return counted(mask, new)
        if self._decoder.positions.default == "counts":
            return counted(mask, new, self._decoder.positions.least or 0)
        return np.arange(mask.shape[1] - new, mask.shape[1])

    def crop(self, length: int) -> None:
        """Remove all positions from this one on.

        Raises:
            UnavailableError: the model keeps something that cannot be cropped; to begin anew, crop to nothing.
        """
        described: StateSpec | None = getattr(self._decoder.session, "state", None)
        if described is not None:
            described.check_crop(self._who, self.length, length)
        if length < self.length:
            self._state.crop(length)
            self._mask = self._mask[:, :length]

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by those with these indices.

        Raises:
            UnavailableError: the backend cannot exchange rows.
        """
        self._state.reorder(rows)
        self._mask = self._mask[list(rows)]
        if self._context is not None:
            self._context = self._context.selected(rows)

    def fork(self) -> Generation:
        """Return an independent copy.

        Raises:
            UnavailableError: the backend cannot copy its state.
        """
        return self._decoder.resumed(self._state.fork(), self._mask, self._context)

    def close(self) -> None:
        """Free the state."""
        self._state.close()


def counted(mask: NDArray, new: int, at_padding: int = 0) -> NDArray:
    """Return the number of tokens before each of the last `new` positions; `at_padding` where there is padding.

    >>> counted(np.array([[0, 1, 1, 1]]), 2)
    array([[1, 2]])
    """
    if mask.all():
        before = np.arange(mask.shape[1] - new, mask.shape[1])
        return np.array(np.broadcast_to(before, (len(mask), new)), order="C")  # some originals take no other order
    counts = mask.cumsum(1) - 1
    counts[mask == 0] = at_padding
    return np.ascontiguousarray(counts[:, mask.shape[1] - new :])
