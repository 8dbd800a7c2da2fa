"""Inputs of a given ONNX file are derived from the graph alone: of texts, pictures and sounds; what has none that are
tensors of numbers is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optimum_core.errors import SourceError
from optimum_core.models.backends.onnx_files import extended as onnx_extended
from optimum_core.models.signatures.signature import describe
from optimum_core.models.sources.onnx_file import OnnxModule, OnnxSource

_RNG = np.random.default_rng(0)
_WORDS, _PLACES, _WIDTH = 20, 12, 4


def _file(
    path: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **constants: np.ndarray[Any, Any]
) -> Path:
    made = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, made)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _floats(name: str, *axes: str | int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)


def _text(path: Path) -> Path:
    """Embeddings of ids and of their places, those of masked ids zero, plus a number for each token type."""
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Slice", ["places", "zero", "length"], ["place"]),
        helper.make_node("Add", ["word", "place"], ["sum"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["type"]),
        helper.make_node("Add", ["sum", "type"], ["typed"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["typed", "column"], ["hidden"]),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["b", "s"]) for name in names]
    constants = {name: np.array([value]) for name, value in (("zero", 0), ("one", 1), ("last", 2))}
    tables = {"words": (_WORDS, _WIDTH), "places": (_PLACES, _WIDTH), "types": (2, _WIDTH)}
    tensors = {name: _RNG.standard_normal(shape).astype(np.float32) for name, shape in tables.items()}
    return _file(path, nodes, inputs, [_floats("hidden", "b", "s", _WIDTH)], **constants, **tensors)


def test_a_text_is_known_by_its_names(tmp_path: Path) -> None:
    source = OnnxSource(_text(tmp_path / "text.onnx"))
    signature = describe(source.module(), name="text", samples=source.samples())
    assert {(spec.shape, spec.dtype) for spec in signature.inputs} == {(("batch", "sequence"), "int32")}
    by_name = {spec.name: spec for spec in signature.inputs}
    assert (by_name["input_ids"].least, by_name["input_ids"].greatest) == (None, _WORDS - 1)
    assert by_name["token_type_ids"].greatest == 1
    assert [by_name[name].default for name in by_name] == [None, "ones", "zeros"]
    assert signature.ranges["sequence"].greatest == _PLACES
    assert signature.outputs[0].shape == ("batch", "sequence", _WIDTH)


def test_an_input_that_nothing_reads_is_one_of_the_file_still(tmp_path: Path) -> None:
    names = ("input_ids", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
    nodes = [helper.make_node("Gather", ["words", "input_ids"], ["hidden"])]
    words = _RNG.standard_normal((_WORDS, _WIDTH)).astype(np.float32)
    source = OnnxSource(_file(tmp_path / "m.onnx", nodes, inputs, [_floats("hidden", "b", "s", _WIDTH)], words=words))
    signature = describe(source.module(), name="m", samples=source.samples())
    assert [(spec.name, spec.default) for spec in signature.inputs] == [(names[0], None), (names[1], "zeros")]


def _picture(path: Path) -> Path:
    """Scores of 4 by 4 patches of 8 pixels; all of its axes are said to vary."""
    nodes = [
        helper.make_node("Conv", ["pixel_values", "patches"], ["cut"], strides=[8, 8]),
        helper.make_node("Flatten", ["cut"], ["features"]),
        helper.make_node("MatMul", ["features", "head"], ["logits"]),
    ]
    tensors = {"patches": _RNG.standard_normal((5, 3, 8, 8)), "head": _RNG.standard_normal((5 * 4 * 4, 5))}
    inputs = [_floats("pixel_values", "batch_size", "num_channels", "height", "width")]
    constants = {name: value.astype(np.float32) for name, value in tensors.items()}
    return _file(path, nodes, inputs, [_floats("logits", "batch_size", 5)], **constants)


def _sound(path: Path) -> Path:
    nodes = [
        helper.make_node("Unsqueeze", ["input_values", "one"], ["wave"]),
        helper.make_node("Conv", ["wave", "filters"], ["features"], strides=[100]),
    ]
    filters = _RNG.standard_normal((4, 1, 300)).astype(np.float32)
    inputs, outputs = [_floats("input_values", "b", "samples")], [_floats("features", "b", 4, "frames")]
    return _file(path, nodes, inputs, outputs, filters=filters, one=np.array([1]))


@pytest.mark.parametrize(
    ("make", "edge", "shape"),
    [(_picture, None, (2, 3, 32, 32)), (_picture, 32, (2, 3, 32, 32)), (_sound, None, (2, 384))],
)
def test_lengths_are_those_at_which_the_graph_runs(
    make: Any, edge: int | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    (sample,) = OnnxModule(make(tmp_path / "model.onnx"), "model", edge).samples().values()
    assert sample.shape == shape


def test_lengths_that_the_file_states_are_fixed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    source = OnnxSource(_file(tmp_path / "m.onnx", nodes, [_floats("x", "n", 4)], [_floats("y", "n", 4)]))
    signature = describe(source.module(), name="m", samples=source.samples())
    assert [spec.shape for spec in (*signature.inputs, *signature.outputs)] == [("batch", 4), ("batch", 4)]


def _sequence(name: str) -> Any:
    element = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    return helper.make_value_info(name, helper.make_sequence_type_proto(element))


@pytest.mark.parametrize(
    ("node", "output", "told"),
    [
        (helper.make_node("SplitToSequence", ["x"], ["y"], axis=1), _sequence("y"), "output 'y' is a sequence"),
        (
            helper.make_node("Relu", ["x"], ["y"]), helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            "does not state type and axes of its output 'y'",
        ),
        (
            helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING),
            helper.make_tensor_value_info("y", TensorProto.STRING, ["n", 4]), "output 'y' is of texts",
        ),
    ],
)  # fmt: skip
def test_what_is_no_tensor_of_numbers_is_refused(node: Any, output: Any, told: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "m.onnx", [node], [_floats("x", "n", 4)], [output])
    with pytest.raises(SourceError, match=told):
        OnnxSource(path).module()


def test_functions_of_the_file_are_evaluated(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 15), helper.make_opsetid("own", 1)]
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    node = helper.make_node("Double", ["x"], ["y"], domain="own")
    graph = helper.make_graph([node], "g", [_floats("x", "n", 4)], [_floats("y", "n", 4)])
    onnx.save(helper.make_model(graph, functions=[double], opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    source = OnnxSource(tmp_path / "m.onnx")
    x = torch.arange(8.0).reshape(2, 4)
    assert torch.equal(source.module()(x=x)["y"], 2 * x)


def test_weights_in_a_folder_are_copied_with_it(tmp_path: Path) -> None:
    (tmp_path / "theirs" / "data").mkdir(parents=True)
    (tmp_path / "ours").mkdir()
    made = onnx.load(_picture(tmp_path / "m.onnx"))
    path = tmp_path / "theirs" / "m.onnx"
    onnx.save(made, path, save_as_external_data=True, location="data/w.bin", size_threshold=0)
    assert OnnxSource(path).copy_to(tmp_path / "ours") == ("model.onnx", "data/w.bin")
    onnx.checker.check_model(tmp_path / "ours" / "model.onnx")
    (path.parent / "data").rename(tmp_path / "data")
    named = onnx.load(path, load_external_data=False)
    for place, told in (("data/w.bin", "are not beside it"), ("../data/w.bin", "outside its directory")):
        for tensor in named.graph.initializer:
            next(entry for entry in tensor.external_data if entry.key == "location").value = place
        path.write_bytes(named.SerializeToString())
        with pytest.raises(SourceError, match=told):
            OnnxSource(path).size()


def test_weights_of_a_graph_that_opens_as_it_is_keep_their_folder(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs" / "m.onnx", tmp_path / "ours"
    (theirs.parent / "data").mkdir(parents=True)
    ours.mkdir()
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Gelu", ["z"], ["y"], domain="com.microsoft"),
    ]
    weights = [numpy_helper.from_array(np.ones((4, 4), np.float32), "w")]
    graph = helper.make_graph(nodes, "g", [_floats("x", "n", 4)], [_floats("y", "n", 4)], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.save(made, theirs, save_as_external_data=True, location="data/w.bin", size_threshold=0)
    assert onnx_extended.adopt(onnx_extended.find(theirs), ours).files == ("model.onnx", "data/w.bin")
    assert np.array_equal(numpy_helper.to_array(onnx.load(ours / "model.onnx").graph.initializer[0]), np.ones((4, 4)))
    (theirs.parent / "data").rename(tmp_path / "data")
    with pytest.raises(SourceError, match="are not beside it"):
        onnx_extended.find(theirs)
