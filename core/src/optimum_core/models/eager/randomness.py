"""Random numbers in a model's forward: whether it draws any, and whether its outputs depend on them.

A model may draw without effect, as wav2vec2 does for LayerDrop outside of training, or with an effect that is seldom
seen (`torch.rand(1) > 0.99`). So the generators of torch, numpy and Python are set to draw their least numbers, then
their greatest. All three are the Mersenne Twister, whose next 624 outputs are the words of its state, tempered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from optimum_core.models.eager.calls import eager_outputs
from optimum_core.types.arrays import ArrayMapping, NDArray

#: Words of the twister's state, and how many of them are set.
_WORDS, _SET = 624, 312
#: The words for outputs of which all bits are 0, and all are 1.
_LEAST, _GREATEST = 0, 0x12DD9BB3
#: Seeds that are tried beside these.
_SEEDS = (1, 2, 3, 4)
#: Offsets in the bytes of torch's state: of the number of words left, of the next word's index, and of the words, 8
#: bytes each.
_LEFT, _NEXT, _STATE = 8, 16, 24


class Drawing:
    """Whether a block has drawn random numbers, once it has ended."""

    def __init__(self) -> None:
        self.drew = False


@contextmanager
def watched_draws() -> Iterator[Drawing]:
    """Yield what says after the block whether it has drawn from the generators of torch, numpy or Python."""
    found, before = Drawing(), _states()
    yield found
    found.drew = not _equal(before, _states())


def output_by_chance(module: Any, inputs: ArrayMapping, outputs: ArrayMapping) -> str | None:
    """Return the name of an output that depends on the random numbers drawn; None: none does.

    Args:
        outputs: those of an earlier call with these inputs.
    """
    before = _states()
    try:
        for draw in (_least, _greatest, *_SEEDS):
            _seed(draw) if isinstance(draw, int) else draw()
            again = eager_outputs(module, {name: array.copy() for name, array in inputs.items()})
            for name, want in outputs.items():
                if name not in again or not is_equal(want, again[name]):
                    return name
    finally:
        _restore(before)
    return None


def is_equal(a: NDArray, b: NDArray) -> bool:
    """Whether two outputs are equal in shape and in every value; NaN equals NaN."""
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))


States = tuple[torch.Tensor, Any, Any]


def _states() -> States:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _restore(states: States) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _equal(a: States, b: States) -> bool:
    numpys = all(np.array_equal(one, other) for one, other in zip(a[1], b[1], strict=True))
    return torch.equal(a[0], b[0]) and numpys and a[2] == b[2]


def _seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def _least() -> None:
    _set_words(_LEAST)


def _greatest() -> None:
    _set_words(_GREATEST)


def _set_words(word: int) -> None:
    """Set the words that all three generators draw next; those after them are of a seed, since an algorithm that
    rejects numbers would wait for others in vain."""
    _seed(0)
    version, words, gauss = random.getstate()
    drawn = (*[word] * _SET, *words[_SET:_WORDS])
    random.setstate((version, (*drawn, 0), gauss))
    np.random.set_state(("MT19937", np.array(drawn, dtype=np.uint32), 0, 0, 0.0))
    state = torch.get_rng_state().numpy().copy()
    _write(state, _LEFT, np.int32(_WORDS))
    _write(state, _NEXT, np.uint64(0))
    _write(state, _STATE, np.full(_SET, word, dtype=np.uint64))
    torch.set_rng_state(torch.from_numpy(state))


def _write(state: NDArray, offset: int, value: Any) -> None:
    data = np.frombuffer(value.tobytes(), dtype=np.uint8)
    state[offset : offset + len(data)] = data
