"""Attention over a cache in an ONNX graph, found by walking from its keys and values to their products.

What is recognized, for keys K = past and new, values V likewise, whose heads may be repeated:
softmax(softcap(q Kᵀ · scale) + mask) V, with the scale in any number of factors, and with or without a guard against
rows that see nothing. The mask may be anything that is added: causal, with padding, with a window, with distances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from optimum_ort.graphs import GraphIndex, attribute

Pair = tuple[str, str]


class NotRecognizedError(Exception):
    """The attention has a form that is not recognized; the message is the reason, a clause."""


@dataclass(kw_only=True, slots=True)
class Attention:
    """The attention of one layer, by names of values; all of them by head: [batch, heads, positions, head size].

    Attributes:
        size: numbers in one head.
        query: queries, before `scale`.
        key, value: new keys and values.
        mask: what is added to the scores; None: nothing.
        softcap: the bound of the scores; 0: none.
        repeats: query heads for each head of keys.
        product: the node that makes the result.
        repeated: keys and values with their heads repeated: [batch, query heads, positions, head size].
    """

    size: int
    query: str = ""
    key: str = ""
    value: str = ""
    mask: str | None = None
    scale: float = 1.0
    softcap: float = 0.0
    repeats: int = 1
    product: Any = None
    repeated: list[str] = field(default_factory=list)

    @property
    def result(self) -> str:
        return str(self.product.output[0])


def find_attention(
    index: GraphIndex, past: tuple[str, str], present: tuple[str, str], heads: int, size: int
) -> Attention:
    """Return the attention over one layer's cache.

    Args:
        past, present: names of its keys and values.
        heads: heads of keys and values.
        size: numbers in one head.

    Raises:
        NotRecognizedError: the graph computes it in another form.
    """
    found = Attention(size=size)
    found.key, found.value = (_joined(index, *names) for names in zip(past, present, strict=True))
    keys, values = _Walk(index, present[0], size), _Walk(index, present[1], size)
    scored, summed = keys.to_product(), values.to_product()
    if keys.repeats != values.repeats or not keys.is_transposed or values.is_transposed or values.factor != 1:
        raise NotRecognizedError("keys and values are not used alike")
    if scored.input[1] != keys.name or summed.input[1] != values.name:
        raise NotRecognizedError("keys or values are multiplied from the left")
    found.repeated = [*keys.repeated, *values.repeated]
    found.repeats, found.scale = keys.repeats, keys.factor
    found.query = _without_factors(index, scored.input[0], found)
    if heads == 1 and found.repeats == 1:  # one head may serve all queries without being repeated
        found.repeats = _stated_heads(index, found.query)
    _follow_scores(index, scored.output[0], summed, found)
    found.product = summed
    return found


def _joined(index: GraphIndex, past: str, present: str) -> str:
    """Return the new keys or values, which are joined to the past ones."""
    node = index.made_by(present, "Concat")
    if node is None or list(node.input[:1]) != [past] or len(node.input) != 2 or attribute(node, "axis") not in (2, -2):
        raise NotRecognizedError(f"{present!r} is not {past!r} with the new positions behind it")
    for reader in index.readers[past]:
        if reader is not node and reader.op_type != "Shape":
            raise NotRecognizedError(f"{past!r} is also read by {reader.op_type}")
    return str(node.input[1])


class _Walk:
    """The way of keys or values from the cache to the product that uses them."""

    def __init__(self, index: GraphIndex, name: str, size: int) -> None:
        self._index, self._size = index, size
        self.name = name
        self.factor, self.repeats, self.is_transposed = 1.0, 1, False
        self.repeated: list[str] = []

    def to_product(self) -> Any:
        """Return the MatMul that reads them."""
        while True:
            node = _only_reader(self._index, self.name)
            if node.op_type == "MatMul":
                return node
            self.name = self._step(node)

    def _step(self, node: Any) -> str:
        """Return the value that comes next."""
        if node.op_type == "Unsqueeze":
            return self._repeat(node)
        if node.op_type == "Transpose" and attribute(node, "perm") == [0, 1, 3, 2] and not self.is_transposed:
            self.is_transposed = True
        elif (factor := _factor(self._index, node, self.name, self._size)) is not None:
            self.factor *= factor
        elif not _does_nothing(node):
            raise NotRecognizedError(f"{node.op_type} comes between the cache and its product")
        return str(node.output[0])

    def _repeat(self, node: Any) -> str:
        """Follow Unsqueeze, Expand, Reshape, which repeat each head."""
        axes = self._index.array(node.input[1]) if len(node.input) > 1 else None
        expand = _only_reader(self._index, node.output[0])
        times = self._index.length(expand.input[1], 2) if expand.op_type == "Expand" else None
        reshape = _only_reader(self._index, expand.output[0])
        if axes is None or axes.tolist() != [2] or times is None or reshape.op_type != "Reshape" or self.repeats != 1:
            raise NotRecognizedError("heads are repeated in another way")
        self.repeats = times
        self.repeated.append(reshape.output[0])
        return str(reshape.output[0])


def _only_reader(index: GraphIndex, name: str) -> Any:
    readers = [node for node in index.readers.get(name, []) if node.op_type != "Shape"]
    if len(readers) != 1:
        raise NotRecognizedError(f"{name!r} has {len(readers)} readers")
    return readers[0]


def _factor(index: GraphIndex, node: Any, name: str, size: int) -> float | None:
    """Return the constant by which a node multiplies a value, which may come from the size of a head."""
    if node.op_type not in ("Mul", "Div"):
        return None
    other = node.input[1] if node.input[0] == name else node.input[0]
    number = index.scalar(other, size)
    if number is None or (node.op_type == "Div" and (node.input[0] != name or number == 0)):
        return None
    return 1 / number if node.op_type == "Div" else number


def _does_nothing(node: Any) -> bool:
    return bool(node.op_type == "Identity" or (node.op_type == "Cast" and attribute(node, "to") == 1))


def _without_factors(index: GraphIndex, name: str, found: Attention) -> str:
    """Return the value that constants turn into this one; they become part of the scale."""
    while (node := index.made_by(name, "Mul", "Div")) is not None:
        inner = node.input[0] if index.scalar(node.input[0], found.size) is None else node.input[1]
        factor = _factor(index, node, inner, found.size)
        if factor is None:
            break
        found.scale, name = found.scale * factor, inner
    return name


def _stated_heads(index: GraphIndex, name: str) -> int:
    """Return the number of heads in the shape that queries were given.

    Raises:
        NotRecognizedError: no shape states it.
    """
    axis = 1
    while (node := index.maker.get(name)) is not None and node.op_type != "Reshape":
        if node.op_type == "Transpose" and attribute(node, "perm") == [0, 2, 1, 3]:
            axis = 2
        name = node.input[0]
    heads = index.length(node.input[1], axis) if node is not None else None
    if heads is None or heads < 1:
        raise NotRecognizedError("the number of query heads is not stated")
    return heads


def _follow_scores(index: GraphIndex, name: str, summed: Any, found: Attention) -> None:
    """Follow the scores to the product with the values."""
    is_bounded = False
    while True:
        node = _only_reader(index, name)
        if node.op_type == "Softmax" and attribute(node, "axis", -1) in (-1, 3):
            break
        factor = _factor(index, node, name, found.size)
        if factor is not None and found.mask is None:
            if is_bounded and not found.softcap:
                found.softcap = factor
            found.scale *= factor
        elif node.op_type == "Tanh" and found.mask is None and not is_bounded:
            is_bounded = True
        elif node.op_type == "Add" and found.mask is None:
            found.mask = node.input[1] if node.input[0] == name else node.input[0]
        elif not _does_nothing(node):
            raise NotRecognizedError(f"{node.op_type} comes between scores and softmax")
        name = node.output[0]
    if is_bounded and not found.softcap:
        raise NotRecognizedError("the scores' bound is not stated")
    _follow_weights(index, node.output[0], summed)


def _follow_weights(index: GraphIndex, name: str, summed: Any) -> None:
    """Follow the softmax to the product with the values."""
    while summed.input[0] != name:
        readers = [node for node in index.readers.get(name, []) if node.op_type not in ("Shape", "IsNaN")]
        if len(readers) != 1:
            raise NotRecognizedError("the attention's weights have several readers")
        node = readers[0]
        if not (_does_nothing(node) or _is_guard(index, node, name)):
            raise NotRecognizedError(f"{node.op_type} comes between softmax and values")
        name = node.output[0]


def _is_guard(index: GraphIndex, node: Any, name: str) -> bool:
    """Whether a node replaces the weights of rows that see nothing by zeros."""
    if node.op_type != "Where" or node.input[2] != name or index.scalar(node.input[1]) != 0:
        return False
    test = index.made_by(node.input[0], "IsNaN")
    return test is not None and str(test.input[0]) == name
