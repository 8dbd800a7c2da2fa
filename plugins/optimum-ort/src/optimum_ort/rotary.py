"""Rotary position embeddings in an ONNX graph, made one operator each.

What is recognized, for queries or keys x [batch, heads, positions, size] and angles that are the same in both halves
of a head: x · cos + [-x₂, x₁] · sin, where x₁ and x₂ are the halves. ONNX Runtime's operator reads cosines and sines
from a table, by position. Here the table is what the graph computes for the positions of the call, whatever it computes
it from, and the positions are the places in it; so scaled and dynamic angles are what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimum_ort.graphs import GraphIndex, attribute, rewrite
from optimum_ort.shape_values import Dim, ShapeValues

_DOMAIN = "com.microsoft"
_BY_HEAD = [0, 2, 1, 3]


def fuse_rotary(model: Any, shapes: Mapping[str, Sequence[Dim]]) -> dict[str, tuple[Dim, ...]]:
    """Replace the rotary embeddings of a graph by operators; return the shapes of what these give, by name."""
    fuser = _Fuser(model, shapes)
    for node in list(model.graph.node):
        if node.op_type == "Add":
            fuser.visit(node)
    return fuser.finish()


class _Fuser:
    """Collects the new nodes of a graph."""

    def __init__(self, model: Any, shapes: Mapping[str, Sequence[Dim]]) -> None:
        self._model, self._graph, self._shapes = model, model.graph, shapes
        self._index = GraphIndex(model.graph)
        self._values = ShapeValues(self._index, shapes)
        self._new: dict[str, list[Any]] = {}
        self._tables: dict[tuple[str, str], tuple[str, str, str]] = {}
        self._constants: dict[str, Any] = {}
        self._rotated: dict[str, tuple[Dim, ...]] = {}

    def visit(self, node: Any) -> None:
        """Replace the node by the operator, if it is a rotary embedding."""
        for straight, turned in (tuple(node.input), tuple(reversed(node.input))):
            if (found := self._match(straight, turned)) is not None:
                self._replace(node, *found)
                return

    def _match(self, straight: str, turned: str) -> tuple[str, str, str] | None:
        """Return the names of what is rotated, of its cosines and of its sines."""
        first, second = (self._index.made_by(name, "Mul") for name in (straight, turned))
        if first is None or second is None:
            return None
        for rotated, sines in (tuple(second.input), tuple(reversed(second.input))):
            source = self._turned(rotated)
            if source is not None and source in first.input:
                cosines = first.input[1] if first.input[0] == source else first.input[0]
                if self._is_table(cosines, source) and self._is_table(sines, source):
                    return source, cosines, sines
        return None

    def _turned(self, name: str) -> str | None:
        """Return x, where a value is [-x₂, x₁]."""
        joined = self._index.made_by(name, "Concat")
        if joined is None or len(joined.input) != 2 or attribute(joined, "axis") not in (-1, 3):
            return None
        negated = self._index.made_by(joined.input[0], "Neg")
        upper = self._index.made_by(negated.input[0], "Slice") if negated is not None else None
        lower = self._index.made_by(joined.input[1], "Slice")
        if upper is None or lower is None or upper.input[0] != lower.input[0]:
            return None
        source = str(upper.input[0])
        shape = self._shapes.get(source, ())
        size = shape[3] if len(shape) == 4 else None
        if not isinstance(size, int) or size % 2:
            return None
        halves = (self._bounds(lower, size), self._bounds(upper, size))
        return source if halves == ((0, size // 2), (size // 2, size)) else None

    def _bounds(self, node: Any, size: int) -> tuple[int, int] | None:
        """Return the first and last index that a slice along the last axis takes."""
        found = [self._values.of(name) for name in node.input[1:]]
        if len(found) < 3 or any(value is None or len(value.sizes) != 1 for value in found):
            return None
        start, end, axis, *step = (value.sizes[0] for value in found if value is not None)
        if axis not in (-1, 3) or step not in ([], [1]) or not isinstance(start, int) or not isinstance(end, int):
            return None
        return slice(start, end).indices(size)[:2]

    def _is_table(self, name: str, source: str) -> bool:
        """Whether a value has the same cosines or sines in both halves, for all heads."""
        shape, size = self._shapes.get(name, ()), self._shapes[source][3]
        if len(shape) != 4 or shape[1] != 1 or shape[3] != size:
            return False
        while (node := self._index.maker.get(name)) is not None:
            if node.op_type == "Concat":
                parts = list(node.input)
                return len(parts) == 2 and parts[0] == parts[1] and attribute(node, "axis") in (-1, 2, 3)
            name = self._behind(node)
        return False

    def _behind(self, node: Any) -> str:
        """Return what a node takes that changes no halves; "" where it may."""
        if node.op_type in ("Cos", "Sin", "Cast", "Identity", "Unsqueeze"):
            return str(node.input[0])
        if node.op_type == "Mul":
            return next(
                (str(node.input[1 - at]) for at in (0, 1) if self._index.scalar(node.input[at]) is not None), ""
            )
        return ""

    def _replace(self, node: Any, source: str, cosines: str, sines: str) -> None:
        """Write the operator, and a transposition by head that later passes remove."""
        from onnx import helper

        heads, size = self._shapes[source][1], self._shapes[source][3]
        if not isinstance(heads, int) or not isinstance(size, int):
            return
        result, by_head = node.output[0], self._index.made_by(source, "Transpose")
        before: list[Any] = []
        if by_head is not None and attribute(by_head, "perm") == _BY_HEAD:
            by_position = by_head.input[0]
        else:
            by_position = f"{result}.rows"
            before.append(helper.make_node("Transpose", [source], [by_position], name=by_position, perm=_BY_HEAD))
        flat = self._constant([0, 0, heads * size])
        apart = self._constant([0, 0, heads, size])
        packed, rotated = f"{result}.flat", f"{result}.rotated"
        places, *tables = self._table(cosines, sines, size)
        batch, _, positions, _ = self._shapes[source]
        self._rotated[rotated] = (batch, positions, heads * size)
        self._new[result] = [
            *before,
            helper.make_node("Reshape", [by_position, flat], [packed], name=packed),
            helper.make_node(
                "RotaryEmbedding", [packed, places, *tables], [rotated], name=rotated, domain=_DOMAIN, num_heads=heads
            ),
            helper.make_node("Reshape", [rotated, apart], [f"{result}.apart"], name=f"{result}.apart"),
            helper.make_node("Transpose", [f"{result}.apart"], [result], name=f"{result}.by_head", perm=_BY_HEAD),
        ]

    def _table(self, cosines: str, sines: str, size: int) -> tuple[str, str, str]:
        """Return the names of the places in the table, the cosines and the sines; layers share them."""
        if (cosines, sines) not in self._tables:
            prefix = f"rotary.{len(self._tables)}"
            made = self._index.maker[sines] if self._is_later(sines, cosines) else self._index.maker[cosines]
            nodes = self._new.setdefault(made.output[0], [made])
            self._tables[cosines, sines] = (
                self._places(nodes, prefix, cosines),
                self._half(nodes, f"{prefix}.cosines", cosines, size),
                self._half(nodes, f"{prefix}.sines", sines, size),
            )
        return self._tables[cosines, sines]

    def _is_later(self, one: str, other: str) -> bool:
        order = {node.output[0]: at for at, node in enumerate(self._graph.node)}
        return order[self._index.maker[one].output[0]] > order[self._index.maker[other].output[0]]

    def _half(self, nodes: list[Any], name: str, source: str, size: int) -> str:
        """Write the first half of each row of a table [positions, half of a head]."""
        from onnx import helper

        bounds = [self._constant([number]) for number in (0, size // 2, -1)]
        shape = self._constant([-1, size // 2])
        nodes += [
            helper.make_node("Slice", [source, *bounds], [f"{name}.half"], name=f"{name}.half"),
            helper.make_node("Reshape", [f"{name}.half", shape], [name], name=name),
        ]
        return name

    def _places(self, nodes: list[Any], prefix: str, table: str) -> str:
        """Write the row of the table for each position [batch, positions]; rows of a batch may share one."""
        from onnx import helper

        new = next(port.name for port in self._graph.input if port.name in ("input_ids", "inputs_embeds"))
        zero, one = self._constant(0), self._constant(1)
        axes = self._constant([0, 2])

        def node(operator: str, inputs: list[str], word: str, **attributes: Any) -> str:
            name = f"{prefix}.{word}"
            nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
            return name

        lengths = node("Gather", [node("Shape", [table], "shape"), axes], "lengths")
        count = node("ReduceProd", [lengths], "count", keepdims=0)
        rows = node("Reshape", [node("Range", [zero, count, one], "all"), lengths], "rows")
        return node("Expand", [rows, node("Shape", [new], "new", start=0, end=2)], "places")

    def _constant(self, numbers: list[int] | int) -> str:
        import numpy as np
        from onnx import numpy_helper

        words = "_".join(map(str, numbers)) if isinstance(numbers, list) else f"scalar_{numbers}"
        name = f"rotary.number_{words}"
        self._constants[name] = numpy_helper.from_array(np.array(numbers, np.int64), name)
        return name

    def finish(self) -> dict[str, tuple[Dim, ...]]:
        """Write the nodes into the graph; return the shapes of what the operators give."""
        from onnx import helper

        if self._rotated:
            nodes = [made for node in self._graph.node for made in self._new.get(node.output[0], [node])]
            rewrite(self._graph, nodes, self._constants.values())
            if all(item.domain != _DOMAIN for item in self._model.opset_import):
                self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        return self._rotated
