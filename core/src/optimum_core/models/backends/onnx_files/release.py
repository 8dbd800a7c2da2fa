"""Writing of an encoder and its decoder in ONNX as Optimum reads them: the reverse of `pairs`.

Three graphs: `encoder_model.onnx`; `decoder_model.onnx` for the first tokens, with the part "cross" joined to it and
without a past; `decoder_with_past_model.onnx` for those that follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimum_core.errors import ArtifactError
from optimum_core.models.backends.onnx_files.surgery import (
    drop_input,
    put_beside,
    rename,
    rename_within,
    replace_nodes,
    weight_bytes,
)
from optimum_core.models.sources.onnx_graph import copied
from optimum_core.types import Artifact, StateSpec
from optimum_core.types.state import CROSS, DECODER, ENCODER, HIDDEN

_IDS, _MASK, _PLACES = "input_ids", "attention_mask", "position_ids"
_CROSS = re.compile(rf"{CROSS}\.(\d+)\.(key|value)")
_WHO = "layout 'optimum'"
#: Above this, weights go into a file of their own: a protobuf holds at most 2 GiB.
_EXTERNAL_ABOVE = 1 << 30


def release_pair(artifact: Artifact, output: Path, prepare: Callable[[Any, Artifact], None]) -> None:
    """Write the three graphs.

    Args:
        prepare: lets a decoder's graph give the logits of all new positions.

    Raises:
        ArtifactError: the encoder gives more than hidden states, or the decoder needs buffers of the caller's.
    """
    encoder, cross, decoder = (artifact.parts[name] for name in (ENCODER, CROSS, DECODER))
    if (given := [spec.name for spec in encoder.outputs]) != [HIDDEN]:
        why = f"its encoder gives {', '.join(given)}, where that layout has {HIDDEN} alone"
        raise ArtifactError(_WHO, why, "save it without layout=, and open it by load()")
    assert decoder.state is not None
    _write(_read(encoder), output / "encoder_model.onnx")
    for name, change in (("decoder_with_past_model.onnx", _later), ("decoder_model.onnx", _first)):
        proto = _read(decoder)
        prepare(proto, decoder)
        _count(proto.graph, decoder.state)
        change(proto, decoder.state, cross)
        _write(proto, output / name)


def _read(part: Artifact) -> Any:
    import onnx

    return onnx.load(part.main_file)


def _write(proto: Any, place: Path) -> None:
    import onnx

    if weight_bytes(proto.graph) > _EXTERNAL_ABOVE:
        put_beside(proto.graph, f"{place.name}_data")
    onnx.save_model(proto, place)


def _later(proto: Any, state: StateSpec, cross: Artifact) -> None:
    """Name the keys and values that a later call takes and gives, and put them in order: they are passed by place."""
    graph = proto.graph
    found = (_CROSS.fullmatch(value.name) for value in graph.input)
    taken = {match[0]: f"past_key_values.{match[1]}.encoder.{match[2]}" for match in found if match}
    rename(graph, taken | _own(state))
    ordered = sorted((copied(value) for value in graph.input), key=lambda value: _place(value.name))
    del graph.input[:]
    graph.input.extend(ordered)


def _place(name: str) -> tuple[int, str]:
    """Return the place of an input: by layer, those of the decoder before those of the encoder, keys before values."""
    kind, _, rest = name.partition(".")
    layer, _, which = rest.partition(".")
    return (int(layer), which) if kind == "past_key_values" else (-1, "")


def _own(state: StateSpec) -> dict[str, str]:
    """Return that layout's names for the keys and values of the decoder's own attention."""
    names = (spec.name.rsplit(".", 2) for spec in (*state.past, *state.present))
    return {f"{kind}.{layer}.{part}": f"{kind}.{layer}.decoder.{part}" for kind, layer, part in names}


def _first(proto: Any, state: StateSpec, cross: Artifact) -> None:
    """Let a first call begin with an empty past, and make keys and values of the encoder's output."""
    from onnx import helper

    graph, part = proto.graph, _read(cross)
    _require_same_opsets(proto, part)
    names = {name for node in part.graph.node for name in node.output} | {item.name for item in part.graph.initializer}
    outputs = [value.name for value in part.graph.output]
    inner = {name: f"{CROSS}/{name}" for name in names - {""}}
    rename_within(part.graph, inner)
    rename_within(graph, {name: inner[name] for name in outputs})
    for node in part.graph.node:
        node.name = f"{CROSS}/{node.name}"
    for item in part.graph.initializer:
        item.name = inner.get(item.name, item.name)
    graph.initializer.extend(part.graph.initializer)
    known = {(item.domain, item.name) for item in proto.functions}
    proto.functions.extend(item for item in part.functions if (item.domain, item.name) not in known)
    for name in (*outputs, *(spec.name for spec in state.past)):
        drop_input(graph, name)
    replace_nodes(graph, [*_empty_past(graph, state), *part.graph.node, *graph.node])
    graph.input.extend(part.graph.input)
    for value in part.graph.output:
        match = _CROSS.fullmatch(value.name)
        assert match is not None
        given = copied(value)
        given.name = f"present.{match[1]}.encoder.{match[2]}"
        graph.node.append(helper.make_node("Identity", [inner[value.name]], [given.name]))
        graph.output.append(given)
    rename(graph, _own(state))


def _require_same_opsets(one: Any, other: Any) -> None:
    found = [{(item.domain or "ai.onnx"): item.version for item in proto.opset_import} for proto in (one, other)]
    if any(found[0].get(domain, version) != version for domain, version in found[1].items()):
        why = f"its parts are of different opsets: {found[0]} and {found[1]}"
        raise ArtifactError(_WHO, why, "accelerate it again, so that one exporter makes all of them")
    domains = {item.domain or "ai.onnx" for item in one.opset_import}
    one.opset_import.extend(item for item in other.opset_import if (item.domain or "ai.onnx") not in domains)


def _constant(graph: Any, name: str, value: Any) -> str:
    """Add a constant of whole numbers to a graph; return its name."""
    import numpy as np
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    return name


def _empty_past(graph: Any, state: StateSpec) -> list[Any]:
    """Return nodes that make keys and values of no positions, for as many rows as there are of ids."""
    import numpy as np
    from onnx import helper, numpy_helper

    rows = "past.rows"
    start, end = _constant(graph, "past.start", [0]), _constant(graph, "past.end", [1])
    made = [
        helper.make_node("Shape", [_IDS], ["past.ids"]),
        helper.make_node("Slice", ["past.ids", start, end], [rows]),
    ]
    zero = numpy_helper.from_array(np.zeros(1, np.float32))
    for spec in state.past:
        rest = _constant(graph, f"{spec.name}.sizes", [spec.shape[1], 0, spec.shape[3]])
        made.append(helper.make_node("Concat", [rows, rest], [f"{spec.name}.shape"], axis=0))
        made.append(helper.make_node("ConstantOfShape", [f"{spec.name}.shape"], [spec.name], value=zero))
    return made


def _count(graph: Any, state: StateSpec) -> None:
    """Make the decoder's mask and positions, which that layout does not pass: all is tokens, counted from the past."""
    import numpy as np
    from onnx import helper, numpy_helper

    names = {value.name for value in graph.input}
    rename_within(graph, made_here := {name: f"count.{name}" for name in (_MASK, _PLACES)})
    zero, one, two, three = (_constant(graph, f"count.{index}", [index]) for index in range(4))
    made = [
        helper.make_node("Shape", [_IDS], ["count.ids"]),
        helper.make_node("Shape", [state.past[0].name], ["count.keys"]),
        helper.make_node("Slice", ["count.ids", zero, one], ["count.rows"]),
        helper.make_node("Slice", ["count.ids", one, two], ["count.new"]),
        helper.make_node("Slice", ["count.keys", two, three], ["count.past"]),
        helper.make_node("Add", ["count.past", "count.new"], ["count.total"]),
        helper.make_node("Concat", ["count.rows", "count.total"], ["count.both"], axis=0),
    ]
    if _MASK in names:
        ones = numpy_helper.from_array(np.ones(1, np.int64))
        made.append(helper.make_node("ConstantOfShape", ["count.both"], [made_here[_MASK]], value=ones))
    if _PLACES in names:
        step, empty = _constant(graph, "count.step", 1), _constant(graph, "count.none", [])
        made += [
            helper.make_node("Reshape", ["count.past", empty], ["count.first"]),
            helper.make_node("Reshape", ["count.total", empty], ["count.last"]),
            helper.make_node("Range", ["count.first", "count.last", step], ["count.places"]),
            helper.make_node("Reshape", ["count.places", _constant(graph, "count.row", [1, -1])], ["count.one_row"]),
            helper.make_node("Expand", ["count.one_row", "count.ids"], [made_here[_PLACES]]),
        ]
    for name in (_MASK, _PLACES):
        drop_input(graph, name)
    replace_nodes(graph, [*made, *graph.node])
