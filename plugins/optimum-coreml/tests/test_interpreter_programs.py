"""Programs as a whole: types, declared shapes, what is unknown or was changed, packed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder

from optimum_core.errors import SessionError
from optimum_coreml.storage import read_program, weights_file
from optimum_coreml_interpreter import Program
from optimum_coreml_interpreter.registry import OPERATORS, UndefinedError

Tensor = torch.Tensor
mb: Any = Builder
Build = Callable[..., Program]


def test_sixteen_bits_are_rounded_after_every_operator(built: Build, tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float16(1.0)), y=np.float16(1.0))

    made = built(build, [(3,)], tmp_path, "fp16", "iOS18")
    x = torch.tensor([1e-4, 4e-4, 1e-3], dtype=torch.float16)
    (found,) = made.run({"x0": x}).values()
    assert found.dtype == torch.float16
    assert found.tolist() == [0.0, 0.0, 0.0009765625]


def test_negative_indices_end_with_ios17(built: Build, tmp_path: Path) -> None:
    def build(x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=0)

    x, i = torch.tensor([7, 8, 9], dtype=torch.int32), torch.tensor([-1, 0], dtype=torch.int32)
    old = built(build, [(3,), (2,)], tmp_path / "old", "int32", "iOS16")
    assert next(iter(old.run({"x0": x, "x1": i}).values())).tolist() == [9, 7]
    new = built(build, [(3,), (2,)], tmp_path / "new", "int32", "iOS18")
    with pytest.raises(SessionError, match="index -1 into an axis of 3"):
        new.run({"x0": x, "x1": i})


def test_an_operator_that_it_does_not_know_is_named(built: Build, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="does not know local_response_norm") as caught:
        built(lambda x: mb.local_response_norm(x=x, size=3), [(1, 4, 5)], tmp_path, "fp32", "iOS18")
    assert "Mac" in caught.value.remedy


def test_what_a_program_declares_is_held_to(built: Build, tmp_path: Path) -> None:
    made = built(lambda x: mb.relu(x=x), [(3,)], tmp_path, "fp32", "iOS18")
    with pytest.raises(SessionError, match=r"a shape of \(2,\) came out where the program declares \[3\]"):
        made.run({"x0": torch.ones(2)})
    with pytest.raises(SessionError, match="float16 came out where the program declares FLOAT32"):
        made.run({"x0": torch.ones(3, dtype=torch.float16)})


def changed(built: Build, folder: Path, change: Callable[[Any], None]) -> Program:
    """Two tensors stacked, and a weight from the file; the saved program changed by hand."""
    weight = torch.rand(2, 40, 40).numpy()
    built(lambda x: mb.add(x=mb.stack(values=[x, x], axis=0), y=weight), [(40, 40)], folder, "fp32", "iOS18")
    package = folder / "model.mlpackage"
    spec = read_program(package, "test")
    change(spec.mlProgram.functions["main"].block_specializations["CoreML8"])
    return Program(spec, weights_file(package), "test")


def test_a_program_that_was_changed_is_an_error_that_names_the_operator(built: Build, tmp_path: Path) -> None:
    def two(block: Any) -> None:
        (stack,) = (item for item in block.operations if item.type == "stack")
        stack.inputs["axis"].arguments.add().CopyFrom(stack.inputs["axis"].arguments[0])

    def without_entries(block: Any) -> None:
        (stack,) = (item for item in block.operations if item.type == "stack")
        stack.type = "split"
        stack.inputs["x"].CopyFrom(stack.inputs["values"])
        del stack.inputs["x"].arguments[1:], stack.inputs["values"]

    def elsewhere(block: Any) -> None:
        for item in block.operations:
            if item.type == "const" and item.attributes["val"].WhichOneof("value") == "blobFileValue":
                item.attributes["val"].blobFileValue.fileName = "@model_path/weights/other.bin"

    def nowhere(block: Any) -> None:
        block.outputs[0] = "missing"

    given = {"x0": torch.rand(40, 40)}
    with pytest.raises(SessionError, match=r"'stack'.*2 values for its input 'axis'"):
        changed(built, tmp_path / "two", two).run(given)
    with pytest.raises(SessionError, match=r"'split'.*AssertionError"):
        changed(built, tmp_path / "without", without_entries).run(given)
    with pytest.raises(SessionError, match=r"'const'.*a constant in @model_path/weights/other\.bin"):
        changed(built, tmp_path / "elsewhere", elsewhere)
    with pytest.raises(SessionError, match="the program's output 'missing'"):
        changed(built, tmp_path / "nowhere", nowhere)


def test_packed_weights_of_older_targets() -> None:
    """Bit by bit as the specification's examples have it."""
    indices = torch.tensor([0b01101100, 0b11], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5.0, 9.0, 13.0])
    dense = OPERATORS["constexpr_lut_to_dense"](indices, lut, shape=torch.tensor([5]), opset=6)
    assert dense.tolist() == [1.0, 13.0, 9.0, 5.0, 13.0]
    mask = torch.tensor([0b01100], dtype=torch.uint8)
    sparse = OPERATORS["constexpr_sparse_to_dense"](torch.tensor([2.0, 3.0]), mask, shape=torch.tensor([5]), opset=6)
    assert sparse.tolist() == [0.0, 0.0, 2.0, 3.0, 0.0]
    with pytest.raises(UndefinedError):
        OPERATORS["constexpr_sparse_to_dense"](torch.tensor([2.0]), mask, shape=torch.tensor([5]), opset=6)


def test_tables_by_group_and_of_vectors() -> None:
    """The two cases of the specification of iOS18's `constexpr_lut_to_dense`."""
    indices = torch.tensor([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    dense = OPERATORS["constexpr_lut_to_dense"](indices, lut, opset=8)
    assert dense.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    bits = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    vectors = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 1, 1, 2, 3)
    last = OPERATORS["constexpr_lut_to_dense"](bits, vectors, vector_axis=torch.tensor(2), opset=8)
    assert last[0].tolist() == [[1, 2, 3, 1, 2, 3], [4, 5, 6, 1, 2, 3]]
    middle = OPERATORS["constexpr_lut_to_dense"](bits, vectors, vector_axis=torch.tensor(1), opset=8)
    assert middle[0].tolist() == [[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]]
