"""What a model remembers from one call to the next: the contract for generation. Nothing implements it yet.

See docs/decisions/0011-parts-and-state.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from optimum_core.types.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerState:
    """What one layer of a model remembers.

    Attributes:
        kind: keys and values of every position ("key-value"), or a summary of fixed size ("recurrent").
        heads: heads of keys and values, fewer than of queries under grouped attention; 0 for a recurrent layer.
        head_size: numbers in one head; for a recurrent layer, in its whole summary for one row.
        window: positions that are kept, where older ones are dropped; None: all.
    """

    kind: Literal["key-value", "recurrent"] = "key-value"
    heads: int = 0
    head_size: int = 0
    window: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateSpec:
    """What a part of an artifact remembers, and what may be done with that.

    Attributes:
        layers: one entry a layer, in order.
        crop: `State.crop` works: the last positions can be taken back.
        reorder: `State.reorder` works: rows can be exchanged, dropped and repeated, as beam search does.
        fork: `State.fork` works: a generation can go on in two ways from one point.

    >>> StateSpec(layers=(LayerState(heads=2, head_size=64),) * 12, crop=True).layers[0].window is None
    True
    """

    layers: tuple[LayerState, ...]
    crop: bool = False
    reorder: bool = False
    fork: bool = False


@runtime_checkable
class State(Protocol):
    """The memory of one generation, given by `session.begin(rows)`; the memory itself never leaves the backend.

    `infer` runs it as it runs a session: every call reads the state and adds to it. It is used by one thread at a
    time; as many generations run at once as there are states. Methods that its `StateSpec` does not name raise
    `UnavailableError`.
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
        """Positions that it holds, padding included."""
        ...

    def crop(self, length: int) -> None:
        """Forget all positions from this one on."""
        ...

    def reorder(self, rows: Sequence[int]) -> None:
        """Put the rows with these numbers in the place of the rows that there are."""
        ...

    def fork(self) -> State:
        """A second state that holds the same and goes its own way."""
        ...

    def close(self) -> None:
        """Free its memory; later calls raise `SessionError`."""
        ...


#: Names of parts that drivers know; others may be added by whatever exports and drives them.
PARTS: Mapping[str, str] = {
    "encoder": "reads the whole input once; its outputs are inputs of the decoder's first call",
    "decoder": "gives the scores of the next token, and remembers",
    "vision": "turns pixels into embeddings in the language model's space",
    "audio": "turns sounds into embeddings in the language model's space",
    "embed": "turns ids into embeddings, where a decoder takes those",
}
