"""The state that a model keeps from one call to the next: the contract for generation.

A decoder's interface is the same on every backend. Its inputs, in this order:

    input_ids       int64 [batch, sequence]   the tokens that are new
    attention_mask  int64 [batch, total]      1 for a token, 0 for padding: of positions in the state and new ones
    position_ids    int64 [batch, sequence]   where the model takes positions
    logits_to_keep  int64 [kept]              the new positions to compute logits for, from 0

and its output `logits`, float [batch, kept, vocabulary]. A decoder that another package exported may read less: where
the new tokens of a call are one, `input_ids` is [batch, 1], and where it reads no mask, the least value of
`attention_mask` is 1; drivers go by that. Keys and values are no inputs: they are in the `State`, and so are states of
a fixed size, of convolutions and recurrences. A graph in a format without state has them as further inputs and outputs,
`StateSpec.past` and `StateSpec.present`; the backend that runs it hides them.

The decoder behind an encoder has further inputs before `logits_to_keep`, which are the same in every call of a state:

    encoder_attention_mask  int64 [batch, source]             where the decoder reads one: 1 for a place of the encoder
    cross.<layer>.key       float [batch, heads, source, size] keys of the attention to the encoder, from part "cross"
    cross.<layer>.value     float [batch, heads, source, size]

The decoder of a model that puts pictures or sound between its tokens takes embeddings in place of ids; position ids may
have several axes, and where some positions see what comes after them, a mask of pairs stands beside the usual one:

    inputs_embeds  float [batch, sequence, width]  in place of input_ids
    position_ids   int64 [axes, batch, sequence]   where positions have several axes: time, height, width
    visible.<kind> int64 [batch, sequence, total]  1 where the new position sees the other, for layers of this kind
    added.<layer>  float [batch, sequence, width]  features that are added to what the layer gives; 0 at tokens

What makes these of the original's inputs is part "merge": the original's own code, its towers and embedding, in torch.
Parts "vision" and "audio" are modules that it calls in the backend: a function of tensors, without a state.

See docs/decisions/0011-parts-and-state.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from optimum_core.errors import UnavailableError
from optimum_core.types.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerState:
    """The state of one layer of a model.

    Attributes:
        kind: keys and values of every position ("key-value"), or states of a fixed size alone ("recurrent").
        heads: number of key and value heads, fewer than query heads in grouped attention; 0 for a recurrent layer.
        head_size: numbers in one head; 0 for a recurrent layer.
        value_size: numbers in one head of values, where that differs from keys; None: `head_size`.
        window: number of positions that a query sees, itself included; a backend may drop older ones. None: all.
        convolutions: shapes, for one row, of the last inputs of convolutions, which these see again; a layer with keys
            and values may have such states beside them. They begin as zeros.
        recurrences: shapes, for one row, of the states that recurrences go on from. They begin as zeros.
    """

    kind: Literal["key-value", "recurrent"] = "key-value"
    heads: int = 0
    head_size: int = 0
    value_size: int | None = None
    window: int | None = None
    convolutions: tuple[tuple[int, ...], ...] = ()
    recurrences: tuple[tuple[int, ...], ...] = ()

    @property
    def has_fixed_states(self) -> bool:
        """Whether it keeps states of a fixed size, from which no position can be removed."""
        return bool(self.convolutions or self.recurrences)


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """The state of a part of an artifact, and the operations that it supports.

    Attributes:
        layers: one entry per layer, in order.
        crop: `State.crop` works: the last positions can be removed. Without it, `crop(0)` works, which begins anew.
        reorder: `State.reorder` works: rows can be exchanged, dropped and repeated, as beam search does.
        fork: `State.fork` works: a generation can continue in two ways from one point.
        cache: number format in which a session keeps keys and values, one of its offer's `stateful_caches`; None: that
            of the arithmetic.

    >>> StateSpec(layers=(LayerState(heads=2, head_size=64),) * 12, crop=True).layers[0].window is None
    True
    """

    layers: tuple[LayerState, ...]
    crop: bool = False
    reorder: bool = False
    fork: bool = False
    cache: str | None = None

    def check_crop(self, who: str, held: int, length: int) -> None:
        """Reject what `State.crop` cannot do to a state that holds so many positions.

        Raises:
            UnavailableError: positions would have to be taken out of states of a fixed size.
        """
        if 0 < length < held and not self.crop:
            why = "this model keeps a state of all it has read, from which no tokens can be taken back"
            raise UnavailableError(who, why, "begin anew, or copy the cache before the tokens to take back")

    @property
    def values_of_a_position(self) -> int:
        """The numbers that one position of one row takes, in keys and values of all layers.

        >>> StateSpec(layers=(LayerState(heads=2, head_size=64),) * 3).values_of_a_position
        768
        """
        return sum(layer.heads * (layer.head_size + (layer.value_size or layer.head_size)) for layer in self.layers)

    @property
    def past(self) -> tuple[TensorSpec, ...]:
        """Keys, values and states before a call, as inputs of a graph that keeps none, in order.

        >>> print(*(spec.name for spec in StateSpec(layers=(LayerState(heads=2, head_size=64),)).past))
        past_key_values.0.key past_key_values.0.value
        """
        return self._tensors("past_key_values", "past")

    @property
    def present(self) -> tuple[TensorSpec, ...]:
        """Keys, values and states after a call, as outputs of such a graph, in the same order."""
        return self._tensors("present", "total")

    def _tensors(self, prefix: str, axis: str) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name=f"{prefix}.{index}.{name}", dtype="float32", shape=("batch", *shape))
            for index, layer in enumerate(self.layers)
            for name, shape in _kept(layer, axis)
        )


def _kept(layer: LayerState, axis: str) -> Iterator[tuple[str, tuple[int | str, ...]]]:
    """Yield the names and shapes, for one row, of what a layer keeps."""
    if layer.kind == "key-value":
        yield "key", (layer.heads, axis, layer.head_size)
        yield "value", (layer.heads, axis, layer.value_size or layer.head_size)
    for name, shapes in (("convolution", layer.convolutions), ("recurrence", layer.recurrences)):
        for index, shape in enumerate(shapes):
            yield f"{name}.{index}", shape


@runtime_checkable
class State(Protocol):
    """The state of one generation, as returned by `session.begin(rows)`; its memory never leaves the backend.

    `infer` runs it like a session: every call reads the state and extends it. It is used by one thread at a time; each
    concurrent generation has its own state. Methods that its `StateSpec` does not enable raise `UnavailableError`.
    """

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def length(self) -> int:
        """The number of positions that it holds, padding included."""
        ...

    def crop(self, length: int) -> None:
        """Remove all positions from this one on."""
        ...

    def reorder(self, rows: Sequence[int]) -> None:
        """Replace the rows by those with these indices."""
        ...

    def fork(self) -> State:
        """Return an independent copy of the state."""
        ...

    def close(self) -> None:
        """Free its memory; later calls raise `SessionError`."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedRow:
    """A row of a state as a row of a new one.

    Attributes:
        state: of the session that joins.
        row: its index there.
        length: the last positions, which are its tokens; those before them are padding.
    """

    state: State
    row: int
    length: int


@runtime_checkable
class JoiningSession(Protocol):
    """A session of a decoder whose states can be joined, so that generations that began apart go on in one call.

    A session whose runtime holds more bytes than keys and values have by themselves, as 32-bit floats, may have an
    attribute `held`: how many times as many.
    """

    @property
    def backend(self) -> str: ...

    @property
    def state(self) -> StateSpec: ...

    def join(self, rows: Sequence[JoinedRow]) -> State:
        """Return a new state of these rows, aligned at their last position; shorter ones begin with padding. The
        former states stay as they are.

        Raises:
            UnavailableError: the model keeps states of a fixed size.
        """
        ...


#: Names of parts that drivers know; an exporter may add others together with a driver for them.
ENCODER, CROSS, DECODER, MERGE = "encoder", "cross", "decoder", "merge"
VISION, AUDIO = "vision", "audio"
#: Behind an encoder: the names of the decoder's ids and their mask in the original's call, of the encoder's output, and
#: of that and its mask where they are inputs of other parts.
IDS, IDS_MASK = "decoder_input_ids", "decoder_attention_mask"
HIDDEN, ENCODER_HIDDEN, ENCODER_MASK = "last_hidden_state", "encoder_hidden_states", "encoder_attention_mask"
#: The first input of a decoder that takes embeddings, and the beginnings of the names of its masks of pairs and of the
#: features that its layers add.
EMBEDS, VISIBLE, ADDED = "inputs_embeds", "visible.", "added."
#: The beginning of the names of keys and values of the attention to an encoder.
CROSS_INPUTS = f"{CROSS}."
PARTS: Mapping[str, str] = {
    ENCODER: "reads the whole input once",
    CROSS: "turns the encoder's output into keys and values for the decoder, once",
    DECODER: "gives the scores of the next token, and remembers",
    MERGE: "puts what the towers see between the embeddings of ids, in torch",
    VISION: "turns pixels into features, within the merge",
    AUDIO: "turns sounds into features, within the merge",
    "embed": "turns ids into embeddings, where a decoder takes those",
}
