"""Lengths at which a model may begin to compute otherwise, as its configuration names them.

They are windows, blocks and chunks of sparse attention, and the positions that a table or a rotary embedding was made
for. They are found by the names of settings, without knowledge of architectures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_POSITIONS = re.compile(r"positions$|position_embeddings|n_ctx|max_seq|seq_len|context_len|model_max_length")
_SWITCHES = re.compile(r"window|block|chunk|local|radius|stride|segment|landmark|bucket|distance|span")
#: Names of counts that are no lengths, and of generation settings.
_NEITHER = re.compile(r"^num_|(layers|heads|dim|ratio|prob)$|^max_length$")
#: Greatest length that is tried: attention over more takes too much memory for a trial.
LONGEST = 4200
#: Most numbers that are used: if there are more, they are hardly lengths.
_MOST = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigNumbers:
    """The lengths that a configuration names, ascending.

    Attributes:
        positions: lengths that the model was made for.
        switches: lengths at which the computation may change.
    """

    positions: tuple[int, ...] = ()
    switches: tuple[int, ...] = ()


def numbers_of(config: Any, processor: Any = None) -> ConfigNumbers:
    """Return the numbers in a configuration and its parts, and the tokenizer's greatest length."""
    found = list(_named(config))
    longest = getattr(getattr(processor, "tokenizer", processor), "model_max_length", None)
    found += [("model_max_length", longest)] if isinstance(longest, int) and longest < 10**6 else []
    words = dict(found)
    # Block-sparse attention with random blocks is used only beyond this number of blocks.
    blocks = 5 + 2 * words.get("num_random_blocks", 0) if "num_random_blocks" in words else 0
    sparse = {blocks * words.get("block_size", 0)} - {0}
    named = [(name, value) for name, value in found if value > 1 and not _NEITHER.search(name)]
    return ConfigNumbers(
        positions=tuple(sorted({value for name, value in named if _POSITIONS.search(name)})),
        switches=tuple(
            sorted({value for name, value in named if _SWITCHES.search(name) and not _POSITIONS.search(name)} | sparse)
        )[:_MOST],
    )


def window_of(config: Any) -> int | None:
    """Return the shortest window of attention that a configuration names; None: it names none."""
    windows = [value for name, value in _named(config) if "window" in name and value > 1 and not _NEITHER.search(name)]
    return min(windows, default=None)


def chunk_of(config: Any) -> int | None:
    """Return the shortest chunk to which a configuration confines attention (Llama 4); None: it names none."""
    return min((value for name, value in _named(config) if "attention_chunk" in name and value > 1), default=None)


def _named(config: Any) -> Iterator[tuple[str, int]]:
    """Yield integers by their name, also those in lists, dictionaries and nested configurations."""
    items = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    for name, value in items.items():
        if isinstance(value, bool) or not isinstance(name, str):
            continue
        if isinstance(value, int):
            yield name, value
        elif isinstance(value, Sequence) and not isinstance(value, str):
            yield from ((name, item) for item in set(filter(_is_whole, value)))
        elif isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from _named(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def lengths_around(numbers: ConfigNumbers, shortest: int, greatest: int | None) -> tuple[int, ...]:
    """Return the lengths beyond `shortest` to compare at, ascending: both sides of each switch, the number of
    positions, and half as many again if the model takes that."""
    found = {length for switch in numbers.switches for length in (switch, switch + 1)}
    found |= {length for positions in numbers.positions for length in (positions, positions + positions // 2)}
    found |= {greatest} if greatest is not None else set()
    return tuple(sorted(length for length in found if shortest < length <= min(greatest or LONGEST, LONGEST)))


def with_rungs(lengths: Sequence[int], shortest: int) -> tuple[int, ...]:
    """Return the lengths with others between, so that each is at most four times the one before: the time of each is
    estimated from the one before."""
    made: list[int] = []
    last = shortest
    for length in lengths:
        while length > 4 * last:
            last *= 4
            made.append(last)
        made.append(length)
        last = length
    return tuple(made)
