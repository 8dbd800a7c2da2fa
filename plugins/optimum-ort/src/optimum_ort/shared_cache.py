"""Level "shared_cache": decoders that write new keys and values into buffers, and attend over them in one operator.

ONNX Runtime's GroupQueryAttention reads keys and values of the past from a buffer that is larger than what is in use,
and writes the new ones behind them. The graph keeps its rotary embedding or other positions, and its mask, which the
operator adds to the scores: so padding on the left, windows and distances are what they were. (Without the mask, it
knows nothing but a length for each row, and takes padding for tokens.)

In the file, the length of past keys and values is that of the buffer, the axis "capacity"; the number of positions in
use comes from the mask, which has one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from optimum_core.types import StateSpec, TensorSpec
from optimum_core.types.state import EMBEDS
from optimum_ort.attention import Attention, NotRecognizedError, find_attention
from optimum_ort.graphs import GraphIndex, attribute, copy_of, needed_nodes, rewrite
from optimum_ort.memory import CAPACITY
from optimum_ort.shape_values import Dim
from optimum_ort.simplification import simplify

# Less than any score can be, and more than -inf: softmax of a row that sees nothing stays finite.
_HIDDEN = -1e30
_DOMAIN = "com.microsoft"
# The operator's own condition.
_HEAD_SIZE_MULTIPLE = 8


def share_cache(model: Any, state: StateSpec) -> None:
    """Change the `onnx.ModelProto` of a decoder: keys and values are written into buffers, and what a step computes
    besides is simplified.

    Raises:
        NotRecognizedError: the attention of a layer has a form that is not recognized.
    """
    index = GraphIndex(model.graph)
    layers = []
    for at, layer in enumerate(state.layers):
        if layer.kind != "key-value" or layer.has_fixed_states:
            raise NotRecognizedError("it has layers with states of a fixed size")
        if layer.value_size not in (None, layer.head_size) or layer.head_size % _HEAD_SIZE_MULTIPLE:
            raise NotRecognizedError(
                f"heads of {layer.head_size} keys and {layer.value_size or layer.head_size} values"
            )
        past, present = (_names(specs[2 * at : 2 * at + 2]) for specs in (state.past, state.present))
        layers.append((past, present, find_attention(index, past, present, layer.heads, layer.head_size)))
    writer = _Writer(model, index)
    for (past, present, found), layer in zip(layers, state.layers, strict=True):
        writer.replace_shapes(past, "past", layer.heads, layer.head_size)
        writer.replace_shapes(present, "total", layer.heads, layer.head_size)
        writer.replace_shapes(found.repeated, "total", layer.heads * found.repeats, layer.head_size)
        writer.replace(found, past, present, layer.heads, layer.head_size)
    simplify(model, writer.finish([spec.name for spec in (*state.past, *state.present)]))


def _names(specs: Sequence[TensorSpec]) -> tuple[str, str]:
    keys, values = specs
    return keys.name, values.name


class _Writer:
    """Collects the new nodes of a graph."""

    def __init__(self, model: Any, index: GraphIndex) -> None:
        self._model, self._graph, self._index = model, model.graph, index
        self._first: list[Any] = []
        self._replaced: dict[str, list[Any]] = {}
        self._renamed: dict[str, str] = {}
        self._made: set[str] = set()
        self._shapes: dict[str, tuple[Dim, ...]] = {}
        self._lengths()

    def _node(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> Any:
        from onnx import helper

        return helper.make_node(operator, inputs, [output], name=f"cache/{output}", domain=domain, **attributes)

    def _constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        if name not in self._made:
            self._made.add(name)
            self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def _lengths(self) -> None:
        """Make the numbers of rows and positions, from the shapes of ids or embeddings, and mask."""
        import numpy as np

        new = next(port.name for port in self._graph.input if port.name in ("input_ids", EMBEDS))
        one = self._constant("cache.one", np.array([1], np.int64))
        self._first += [
            self._node("Shape", [new], "cache.rows", start=0, end=1),
            self._node("Shape", [new], "cache.new", start=1, end=2),
            self._node("Shape", ["attention_mask"], "cache.total", start=1, end=2),
            self._node("Sub", ["cache.total", "cache.new"], "cache.past"),
            self._node("Sub", ["cache.total", one], "cache.last"),
            self._node("Expand", ["cache.last", "cache.rows"], "cache.lasts"),
            self._node("Cast", ["cache.lasts"], "cache.seqlens", to=6),
            self._node("Squeeze", ["cache.total"], "cache.total_scalar"),
            self._node("Cast", ["cache.total_scalar"], "cache.total_length", to=6),
        ]

    def replace_shapes(self, names: Sequence[str], length: Literal["past", "total"], heads: int, size: int) -> None:
        """Give readers of the shapes of keys and values those of the positions in use."""
        for name in names:
            for node in self._index.readers.get(name, []):
                if node.op_type == "Shape":
                    self._replace_shape(node, self._shape(length, heads, size))

    def _shape(self, length: str, heads: int, size: int) -> str:
        import numpy as np

        name = f"cache.{length}_shape_{heads}_{size}"
        if name not in self._made:
            self._made.add(name)
            parts = [self._constant(f"cache.number_{number}", np.array([number], np.int64)) for number in (heads, size)]
            inputs = ["cache.rows", parts[0], f"cache.{length}", parts[1]]
            self._first.append(self._node("Concat", inputs, name, axis=0))
        return name

    def _replace_shape(self, node: Any, shape: str) -> None:
        import numpy as np

        start, end = attribute(node, "start", 0), attribute(node, "end")
        if start == 0 and end is None:
            self._renamed[node.output[0]] = shape
            self._replaced[node.output[0]] = []
            return
        bounds = [
            self._constant(f"cache.number_{number}", np.array([number], np.int64))
            for number in (start, 4 if end is None else end)
        ]
        self._replaced[node.output[0]] = [self._node("Slice", [shape, *bounds], node.output[0])]

    def replace(self, found: Attention, past: Any, present: Any, heads: int, size: int) -> None:
        """Replace one layer's attention."""
        from onnx import helper

        before: list[Any] = []
        queries = heads * found.repeats
        packed = [
            self._packed(name, count * size, before)
            for name, count in ((found.query, queries), (found.key, heads), (found.value, heads))
        ]
        mask = [] if found.mask is None else ["", "", "", self._bias(found.mask, before)]
        result = found.result
        self._shapes[f"{result}.packed"] = (*self._rows_and_new(), queries * size)
        node = helper.make_node(
            "GroupQueryAttention",
            [*packed, *past, "cache.seqlens", "cache.total_length", *mask],
            [f"{result}.packed", *present],
            name=f"cache/{result}.packed",
            domain=_DOMAIN,
            num_heads=queries,
            kv_num_heads=heads,
            scale=found.scale,
            **({"softcap": found.softcap} if found.softcap else {}),
        )
        self._replaced[result] = [*before, node, *self._unpacked(result, queries, size)]
        for name in present:
            self._replaced[name] = []

    def _rows_and_new(self) -> tuple[Dim, ...]:
        """Return the names of the axes of rows and of new tokens."""
        axes = next(port for port in self._graph.input if port.name in ("input_ids", EMBEDS)).type.tensor_type.shape.dim
        return tuple(axis.dim_param or axis.dim_value or None for axis in axes[:2])

    def _packed(self, name: str, width: int, before: list[Any]) -> str:
        """Return a value by head as [batch, positions, heads and head size]."""
        import numpy as np

        swap = self._index.made_by(name, "Transpose")
        if swap is not None and attribute(swap, "perm") == [0, 2, 1, 3]:
            source = swap.input[0]
        else:
            source = f"{name}.by_position"
            before.append(self._node("Transpose", [name], source, perm=[0, 2, 1, 3]))
        shape = self._constant(f"cache.packed_{width}", np.array([0, 0, width], np.int64))
        before.append(self._node("Reshape", [source, shape], f"{name}.packed"))
        return f"{name}.packed"

    def _unpacked(self, result: str, heads: int, size: int) -> list[Any]:
        import numpy as np

        shape = self._constant(f"cache.by_head_{heads}_{size}", np.array([0, 0, heads, size], np.int64))
        return [
            self._node("Reshape", [f"{result}.packed", shape], f"{result}.by_position"),
            self._node("Transpose", [f"{result}.by_position"], result, perm=[0, 2, 1, 3]),
        ]

    def _bias(self, mask: str, before: list[Any]) -> str:
        """Return the mask with finite numbers; layers with the same mask share it."""
        import numpy as np

        least = self._constant("cache.hidden", np.array(_HIDDEN, np.float32))
        node, seen = self._index.made_by(mask, "Where"), None
        if (
            node is not None
            and self._index.scalar(node.input[1]) == 0
            and self._index.scalar(node.input[2]) is not None
        ):
            seen = node.input[0]
        name = f"{seen or mask}.bias"
        if name not in self._made:
            self._made.add(name)
            if seen is None:
                before.append(self._node("Max", [mask, least], name))
            else:
                zero = self._constant("cache.zero", np.array(0, np.float32))
                before.append(self._node("Where", [seen, zero, least], name))
        return name

    def finish(self, cached: list[str]) -> dict[str, tuple[Dim, ...]]:
        """Write the nodes into the graph, without those that nothing reads any more; return the shapes of what the
        operators give."""
        from onnx import helper

        nodes = list(self._first)
        for node in self._graph.node:
            nodes += self._replaced.get(node.output[0], [node])
        nodes = [copy_of(node) for node in nodes]  # where it is refused, the graph stays as it was
        for node in nodes:
            for at, name in enumerate(node.input):
                node.input[at] = self._renamed.get(name, name)
        for node in needed_nodes(nodes, [value.name for value in self._graph.output]):
            if node.op_type != "GroupQueryAttention" and not set(cached).isdisjoint(node.input):
                raise NotRecognizedError(f"keys or values are also read by {node.op_type}")
        rewrite(self._graph, nodes)
        for value in (*self._graph.input, *self._graph.output):
            if value.name in cached:
                value.type.tensor_type.shape.dim[2].dim_param = CAPACITY
        del self._graph.value_info[:]
        if all(item.domain != _DOMAIN for item in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        return self._shapes
