"""The state that a model keeps from one call to the next: the contract for generation. Nothing implements it yet.

See docs/decisions/0011-parts-and-state.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from optimum_core.types.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerState:
    """The state of one layer of a model.

    Attributes:
        kind: keys and values of every position ("key-value"), or a state of fixed size ("recurrent").
        heads: number of key and value heads, fewer than query heads in grouped attention; 0 for a recurrent layer.
        head_size: numbers in one head; for a recurrent layer, in its whole state for one row.
        window: number of positions kept, where older ones are dropped; None: all.
    """

    kind: Literal["key-value", "recurrent"] = "key-value"
    heads: int = 0
    head_size: int = 0
    window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """The state of a part of an artifact, and the operations that it supports.

    Attributes:
        layers: one entry per layer, in order.
        crop: `State.crop` works: the last positions can be removed.
        reorder: `State.reorder` works: rows can be exchanged, dropped and repeated, as beam search does.
        fork: `State.fork` works: a generation can continue in two ways from one point.

    >>> StateSpec(layers=(LayerState(heads=2, head_size=64),) * 12, crop=True).layers[0].window is None
    True
    """

    layers: tuple[LayerState, ...]
    crop: bool = False
    reorder: bool = False
    fork: bool = False


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


#: Names of parts that drivers know; an exporter may add others together with a driver for them.
PARTS: Mapping[str, str] = {
    "encoder": "reads the whole input once; its outputs are inputs of the decoder's first call",
    "decoder": "gives the scores of the next token, and remembers",
    "vision": "turns pixels into embeddings in the language model's space",
    "audio": "turns sounds into embeddings in the language model's space",
    "embed": "turns ids into embeddings, where a decoder takes those",
}
