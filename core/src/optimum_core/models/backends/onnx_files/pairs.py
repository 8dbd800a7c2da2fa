"""Encoders and decoders in ONNX as Optimum exports them: one graph reads the input, another writes with its cache.

Their decoder keeps keys and values of two kinds: its own, which grow, and those of the attention to the encoder, which
it makes in its first call. Here the latter are a part of their own, cut out of the decoder's first call; the decoder
is its later calls, which begin with an empty past. They were exported for one new token at a time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_core.errors import ArtifactError
from optimum_core.generation.generator import generator_behind
from optimum_core.models.backends.onnx_files.forms import layers_of, select_logits
from optimum_core.models.backends.onnx_files.surgery import (
    drop_input,
    put_beside,
    reads_values,
    rename,
    replace_nodes,
    restrict,
    taken_branch,
    weight_bytes,
)
from optimum_core.models.sources.onnx_graph import external_files, id_range, precision_of, read_graph
from optimum_core.packages import versions
from optimum_core.types import Artifact, ForeignFormat, StateSpec, Step, TensorSpec
from optimum_core.types.state import CROSS, CROSS_INPUTS, DECODER, ENCODER, ENCODER_HIDDEN, ENCODER_MASK, HIDDEN

FORMAT = "onnx"
_NAME, _DATA = "model.onnx", "model.onnx_data"
_ENCODER, _MERGED = "encoder_model", "decoder_model_merged"
_FIRST, _LATER = "decoder_model", "decoder_with_past_model"
_KINDS = ("", "_quantized")
#: The input of a merged decoder that chooses between its first call and later ones.
_LATER_CALL = "use_cache_branch"
_CROSS = re.compile(r"(?:past_key_values|present)\.(\d+)\.encoder\.(key|value)")
_OWN = re.compile(r"(past_key_values|present)\.(\d+)\.decoder\.(key|value)")
_PLACE = "cache_position"
_IDS, _MASK = "input_ids", "attention_mask"
_ORIGINAL = "accelerate the checkpoint that it was exported from"
#: Above this, weights go into a file of their own: a protobuf holds at most 2 GiB.
_EXTERNAL_ABOVE = 1 << 30


def find(path: Path) -> tuple[Path, ...]:
    """Return the graphs of an encoder and of its decoder's first and later calls, with the files of their weights."""
    if not path.is_dir():
        return ()
    for place in (path, path / FORMAT):
        for kind in _KINDS:
            encoder, *decoders = (place / f"{name}{kind}.onnx" for name in (_ENCODER, _MERGED, _FIRST, _LATER))
            merged, first, later = (file.is_file() for file in decoders)
            if encoder.is_file() and (merged or (first and later)):
                graphs = (encoder, decoders[0]) if merged else (encoder, *decoders[1:])
                return graphs + tuple(dict.fromkeys(file for graph in graphs for file in _weights(graph)))
    return ()


def _weights(graph: Path) -> list[Path]:
    return external_files(read_graph(graph), graph)


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Write encoder, cross attention and decoder into `output`, and return them as a generative artifact.

    Raises:
        ArtifactError: a file is damaged, or their inputs or outputs are not those of an encoder and a decoder with keys
            and values.
    """
    who = f"model {str(files[0].parent)!r}"
    encoder, *decoders = (read_graph(path, weights=True) for path in files if path.suffix == ".onnx")
    if len(decoders) == 1:
        decoders = [taken_branch(decoders[0], _LATER_CALL, taken, who) for taken in (False, True)]
    first, later = decoders
    parts = _Parts(who=who, output=output, step=_step(files[0]))
    decoder = parts.decoder(later)
    names = [spec.name for spec in decoder.inputs if spec.name.startswith(CROSS_INPUTS)]
    return generator_behind(parts.encoder(encoder), parts.cross(first, names), decoder, output)


def _step(graph: Path) -> Step:
    return Step(
        hook="export", backend=FORMAT, tool="onnx", version=versions(["onnx"])["onnx"], options={"given": graph.name}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Parts:
    """Writes the parts of one model."""

    who: str
    output: Path
    step: Step

    def encoder(self, proto: Any) -> Artifact:
        """Write the encoder as it is."""
        returned = [value.name for value in proto.graph.output]
        if HIDDEN not in returned:
            raise ArtifactError(self.who, f"its encoder gives {', '.join(returned)}, and no {HIDDEN}", _ORIGINAL)
        restrict(proto, [HIDDEN])
        inputs = tuple(_spec(value, proto) for value in proto.graph.input)
        return self._written(proto, ENCODER, inputs, (_spec(proto.graph.output[0], proto),))

    def cross(self, proto: Any, names: list[str]) -> Artifact:
        """Write what makes the keys and values of these names from the encoder's output.

        It is the first call of the decoder, of which ids and mask matter by their shapes alone.
        """
        _name_cross(proto.graph, proto.graph.output)
        returned = {value.name for value in proto.graph.output}
        if lacking := sorted(set(names) - returned):
            raise ArtifactError(self.who, f"its decoder's first call does not give {', '.join(lacking)}", _ORIGINAL)
        restrict(proto, names)
        given = [value.name for value in proto.graph.input if value.name != ENCODER_HIDDEN]
        if read := [name for name in given if reads_values(proto, name)]:
            why = f"its attention to the encoder depends on {', '.join(read)}"
            raise ArtifactError(self.who, why, _ORIGINAL)
        _fill(proto, given)
        hidden = next(value for value in proto.graph.input if value.name == ENCODER_HIDDEN)
        outputs = tuple(_spec(value, proto) for value in proto.graph.output)
        return self._written(proto, CROSS, (_spec(hidden, proto),), outputs)

    def decoder(self, proto: Any) -> Artifact:
        """Write the decoder's later calls, with an input that selects the positions of its logits."""
        graph = proto.graph
        _name_cross(graph, graph.input)
        _name_own(graph)
        given = {value.name: value.type.tensor_type for value in graph.input}
        state = StateSpec(layers=layers_of(given, self.who), crop=True, reorder=True, fork=True)
        returned = {value.name for value in graph.output}
        if lacking := {"logits", *(spec.name for spec in state.present)} - returned:
            raise ArtifactError(self.who, f"it does not give {', '.join(sorted(lacking))}", _ORIGINAL)
        restrict(proto, ["logits", *(spec.name for spec in state.present)])
        _count_places(proto, state)
        self._require_known(proto, state)
        ids = _spec(next(value for value in graph.input if value.name == _IDS), proto)
        vocabulary = select_logits(proto, self.who)
        inputs = self._decoder_inputs(proto, ids, vocabulary)
        logits = TensorSpec(name="logits", dtype="float32", shape=("batch", "kept", vocabulary))
        return replace(self._written(proto, DECODER, inputs, (logits,)), state=state)

    def _require_known(self, proto: Any, state: StateSpec) -> None:
        known = {_IDS, ENCODER_MASK, *(spec.name for spec in state.past)}
        names = [value.name for value in proto.graph.input]
        if unknown := [name for name in names if name not in known and not name.startswith(CROSS_INPUTS)]:
            why = f"its decoder takes {', '.join(unknown)} beside ids, the encoder's mask, keys and values"
            raise ArtifactError(self.who, why, _ORIGINAL)

    def _decoder_inputs(self, proto: Any, ids: TensorSpec, vocabulary: int) -> tuple[TensorSpec, ...]:
        """Return the decoder's inputs in the order of the contract. It reads no mask of its own: all is tokens."""
        from onnx import TensorProto, helper

        proto.graph.input.append(helper.make_tensor_value_info(_MASK, TensorProto.INT64, ["batch", "total"]))
        specs = {value.name: _spec(value, proto) for value in proto.graph.input}
        greatest = vocabulary - 1 if ids.greatest is None else ids.greatest
        return (
            TensorSpec(name=_IDS, dtype="int64", shape=("batch", 1), least=0, greatest=greatest),
            TensorSpec(name=_MASK, dtype="int64", shape=("batch", "total"), default="ones", least=1),
            *(specs[name] for name in (ENCODER_MASK,) if name in specs),
            *(spec for name, spec in specs.items() if name.startswith(CROSS_INPUTS)),
            TensorSpec(name="logits_to_keep", dtype="int64", shape=("kept",)),
        )

    def _written(
        self, proto: Any, part: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
    ) -> Artifact:
        import onnx

        (folder := self.output / part).mkdir()
        large = weight_bytes(proto.graph) > _EXTERNAL_ABOVE
        precision = precision_of(proto)
        if large:
            put_beside(proto.graph, _DATA)
        onnx.save_model(proto, folder / _NAME)
        files = (_NAME, _DATA) if large else (_NAME,)
        return Artifact(
            format=FORMAT, path=folder, files=files, inputs=inputs, outputs=outputs, precision=precision,
            steps=(self.step,),
        )  # fmt: skip


def _name_cross(graph: Any, values: Any) -> None:
    """Give those of a graph's inputs, or outputs, that are keys and values of cross attention the contract's names."""
    found = (_CROSS.fullmatch(value.name) for value in values)
    rename(graph, {match[0]: f"{CROSS}.{match[1]}.{match[2]}" for match in found if match})


def _name_own(graph: Any) -> None:
    """Give the keys and values of the decoder's own attention the contract's names."""
    found = (_OWN.fullmatch(value.name) for value in (*graph.input, *graph.output))
    rename(graph, {match[0]: f"{match[1]}.{match[2]}.{match[3]}" for match in found if match})


def _fill(proto: Any, names: list[str]) -> None:
    """Make inputs of whole numbers of which only the shape is read: one token for each row, and a mask of ones."""
    import numpy as np
    from onnx import helper, numpy_helper

    if not names:
        return
    constant = {"start": [0], "rows": [1], "places": [2], "one": [1]}
    for name, value in constant.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"shape.{name}"))
    made = [
        helper.make_node("Shape", [ENCODER_HIDDEN], ["shape.hidden"]),
        helper.make_node("Slice", ["shape.hidden", "shape.start", "shape.places"], ["shape.mask"]),
        helper.make_node("Slice", ["shape.hidden", "shape.start", "shape.rows"], ["shape.batch"]),
        helper.make_node("Concat", ["shape.batch", "shape.one"], ["shape.ids"], axis=0),
    ]
    ones = numpy_helper.from_array(np.array([1], np.int64))
    for name in names:
        shape = "shape.mask" if name == ENCODER_MASK else "shape.ids"
        made.append(helper.make_node("ConstantOfShape", [shape], [name], value=ones))
        drop_input(proto.graph, name)
    replace_nodes(proto.graph, [*made, *proto.graph.node])


def _count_places(proto: Any, state: StateSpec) -> None:
    """Count the position of the new token from the past, where the graph takes it as an input."""
    import numpy as np
    from onnx import helper, numpy_helper

    if all(value.name != _PLACE for value in proto.graph.input):
        return
    drop_input(proto.graph, _PLACE)
    for name, value in (("start", [2]), ("end", [3])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), f"place.{name}"))
    made = [
        helper.make_node("Shape", [state.past[0].name], ["place.past"]),
        helper.make_node("Slice", ["place.past", "place.start", "place.end"], [_PLACE]),
    ]
    replace_nodes(proto.graph, [*made, *proto.graph.node])


def _spec(value: Any, proto: Any) -> TensorSpec:
    """Return the description of an input or output, with the names that axes have in the contract."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    dtype = tensor_dtype_to_np_dtype(tensor.elem_type).name
    axes = tuple(axis.dim_value or _axis(value.name, index) for index, axis in enumerate(tensor.shape.dim))
    least, greatest = id_range(proto, value.name, dtype)
    return TensorSpec(
        name=value.name, dtype=dtype, shape=axes, default="ones" if value.name == _MASK else None, least=least,
        greatest=greatest,
    )  # fmt: skip


def _axis(name: str, index: int) -> str:
    if index == 0:
        return "batch"
    if name.startswith(CROSS_INPUTS):
        return {1: "heads", 2: "source", 3: "head_size"}[index]
    if index == 1:
        return "source" if name in (ENCODER_HIDDEN, ENCODER_MASK) else "sequence"
    return f"{name}_{index}"


PAIR = ForeignFormat(name="ONNX of an encoder and a decoder with its cache", format=FORMAT, find=find, adopt=adopt)
