"""Removal of work on shapes from a decoder's graph, so that a step takes little beyond its products.

An exporter computes the shape of every reshape from the shapes of other values, in some forty small nodes for each
layer; they took half of a step of a small model with weights in 4 bits. Where shapes are known by the names of their
axes ("batch", "sequence"), a constant says the same: [0, 0, heads, size] copies the first two lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimum_ort.graphs import GraphIndex, attribute, captured_names, rewrite
from optimum_ort.rotary import fuse_rotary
from optimum_ort.shape_values import SMALL, Dim, ShapeValues, inferred_shapes

# Each round may make further shapes known.
_ROUNDS = 4


def simplify(model: Any, known: Mapping[str, Sequence[Dim]] | None = None) -> None:
    """Change the `onnx.ModelProto` of a decoder in place: shapes become constants, reshapes and transpositions that
    undo each other are removed, and rotary position embeddings become one operator each. Weights are not touched.

    Args:
        known: shapes of values that onnx cannot infer.
    """
    shapes = dict(known or {})
    _reduce(model, shapes)
    shapes |= fuse_rotary(model, inferred_shapes(model, shapes))
    _reduce(model, shapes)


def _reduce(model: Any, known: Mapping[str, Sequence[Dim]]) -> None:
    for _ in range(_ROUNDS):
        if not _Pass(model, inferred_shapes(model, known)).run():
            break


class _Pass:
    """One walk over the nodes of a graph."""

    def __init__(self, model: Any, shapes: Mapping[str, Sequence[Dim]]) -> None:
        self._graph, self._shapes = model.graph, shapes
        self._index = GraphIndex(model.graph)
        self._values = ShapeValues(self._index, shapes)
        # Values that others than the graph's own nodes read keep their names.
        self._fixed = {value.name for value in model.graph.output}
        self._fixed.update(name for node in model.graph.node for name in captured_names(node))
        self._same: dict[str, str] = {}
        self._constants: dict[str, Any] = {}
        self._changed = False

    def run(self) -> bool:
        """Change the graph; return whether anything was changed."""
        for node in self._graph.node:
            for at, name in enumerate(node.input):
                if name in self._same:
                    node.input[at] = self._same[name]
            self._visit(node)
        if self._changed:
            rewrite(self._graph, list(self._graph.node), self._constants.values())
        return self._changed

    def _visit(self, node: Any) -> None:
        if node.op_type in ("Reshape", "Transpose", "Expand") and self._is_same_as_input(node):
            self._replace(node, node.input[0])
        elif node.op_type == "Reshape":
            self._fix_reshape(node)
        elif node.op_type == "Transpose":
            self._undo_transpose(node)
        elif node.op_type not in ("Constant", "Identity"):
            self._fold(node)

    def _is_same_as_input(self, node: Any) -> bool:
        """Whether a node gives what it takes."""
        if node.op_type == "Transpose":
            perm = attribute(node, "perm")
            return perm is not None and perm == sorted(perm)
        before, after = self._shapes.get(node.input[0]), self._shapes.get(node.output[0])
        return before is not None and None not in before and before == after

    def _fix_reshape(self, node: Any) -> None:
        """Give a reshape a constant shape, and the value that an earlier one took."""
        source, target = node.input[0], self._target(node, node.input[0])
        before = self._index.made_by(source, "Reshape")
        if before is not None and (further := self._target(node, before.input[0])) is not None:
            source, target = before.input[0], further
            if self._shapes.get(source) == self._shapes.get(node.output[0]):
                return self._replace(node, source)
        if target is None:
            return None
        found = self._index.array(node.input[1])
        if source == node.input[0] and found is not None and found.tolist() == target:
            return None
        node.input[0], node.input[1] = source, self._constant(target)
        kept = [item for item in node.attribute if item.name != "allowzero"]
        del node.attribute[:]
        node.attribute.extend(kept)
        self._changed = True
        return None

    def _target(self, node: Any, source: str) -> list[int] | None:
        """Return the constant shape by which a reshape of `source` gives what `node` gives; None: none is known."""
        before, after = self._shapes.get(source), self._shapes.get(node.output[0])
        if before is None or after is None or attribute(node, "allowzero", 0):
            return None
        made = [
            size if isinstance(size, int) else 0 if at < len(before) and size is not None and before[at] == size else -1
            for at, size in enumerate(after)
        ]
        return made if made.count(-1) <= 1 and 0 not in [size for size in after if isinstance(size, int)] else None

    def _undo_transpose(self, node: Any) -> None:
        """Replace a transposition of a transposed value by the value, where the two undo each other."""
        before, perm = self._index.made_by(node.input[0], "Transpose"), attribute(node, "perm")
        if before is None or perm is None:
            return
        first = attribute(before, "perm")
        if first is not None and [first[axis] for axis in perm] == sorted(perm):
            self._replace(node, before.input[0])

    def _fold(self, node: Any) -> None:
        """Replace a computed shape by a constant where all of its lengths are known numbers."""
        if len(node.output) != 1 or node.output[0] in self._fixed:
            return
        value = self._values.of(node.output[0])
        if value is None or not all(isinstance(size, int) for size in value.sizes):
            return
        made = [int(size) for size in value.sizes if size is not None]
        self._replace(node, self._constant(made if value.is_vector else made[0]))

    def _replace(self, node: Any, name: str) -> None:
        if node.output[0] not in self._fixed:
            self._same[node.output[0]] = self._same.get(name, name)
            self._changed = True

    def _constant(self, numbers: list[int] | int) -> str:
        import numpy as np
        from onnx import numpy_helper

        words = "_".join(map(str, numbers)) if isinstance(numbers, list) else f"scalar_{numbers}"
        name = f"shape.{words}"
        if not self._index.is_small_constant(name, SMALL) and name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.array(numbers, np.int64), name)
        return name
