"""Sparse embeddings of texts by a masked language model, as SPLADE has them: a weight for each word of its vocabulary.

The weight of a word is the maximum over the text's tokens of log(1 + relu(logit)); most are zero in a model that was
trained for it. Source: Formal et al. 2021, https://arxiv.org/abs/2109.10086; text-embeddings-inference computes the
same with `--pooling splade`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from optimum_core import AcceleratedModel
from optimum_core.types.arrays import NDArray
from optimum_serve.abilities import LOGITS

#: The name of these embeddings among the outputs of a model.
SPARSE = "sparse_embedding"
_ENTRY = np.dtype([("index", np.int32), ("value", np.float32)])
_IDS = "input_ids"
#: Logits in memory at once: a batch has one for each token and each word of the vocabulary.
_MOST_LOGITS = 2**24


def sparse_rows(
    model: AcceleratedModel, items: Sequence[Any], vocabulary: int, note: Callable[[Sequence[Any]], None]
) -> list[NDArray]:
    """Return the words with a weight above zero for each text: structured arrays of `index` and `value`.

    Args:
        items: inputs by name, without the batch axis.
        vocabulary: the number of words.
        note: is told of each batch.
    """
    found: list[Any] = [None] * len(items)
    for places in _batches([len(item[_IDS]) for item in items], max(_MOST_LOGITS // vocabulary, 1)):
        batch = [items[place] for place in places]
        logits = model.map(batch, batch_size=len(batch), progress=False, outputs=[LOGITS])[LOGITS]
        note(batch)
        for place, row in zip(places, logits, strict=True):
            found[place] = _entries(row)
    return found


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Yield the places of texts that are near in length, of so many tokens with padding at most, or of one text."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _entries(logits: NDArray) -> NDArray:
    """Return the weights above zero of one text's logits [tokens, vocabulary]."""
    greatest = np.asarray(logits).max(axis=0).astype(np.float32)  # log and relu keep the order
    (places,) = np.nonzero(greatest > 0)
    entries = np.empty(len(places), _ENTRY)
    entries["index"], entries["value"] = places, np.log1p(greatest[places])
    return entries
