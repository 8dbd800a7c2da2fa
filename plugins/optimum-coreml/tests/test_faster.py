"""Conversions are faster, and what comes out is what coremltools alone makes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import sympy

from optimum_coreml.conversion_speed import faster_conversion
from optimum_coreml.coremltools_adapter import CONVERSION, coremltools, quiet

B, S, N = (sympy.Symbol(f"is{number}", integer=True) for number in (7, 10, 31))


def solve(volume: Any, shape: list[Any]) -> Any:
    from coremltools.converters.mil.mil.ops.defs.iOS15.tensor_transformation import reshape

    return reshape.enforce_volumetric_constraint(volume, shape)


@pytest.mark.parametrize(
    ("volume", "shape"),
    [
        (B * S * 32, [B, S, 4, 8]),
        (B * S * 32, [B, S, N]),
        (B * S * 32, [N, 32]),
        (B * S * 32, [B, N, 4, 8]),
        (B * 96, [B, N, 3]),
        (96, [2, N]),
        (96, [2, 48]),
        (B * S, [B + 1, N]),
        (6, [B, S]),
    ],
)
def test_shapes_are_those_that_coremltools_infers(volume: Any, shape: list[Any]) -> None:
    coremltools()
    with CONVERSION:
        expected = solve(volume, shape)
        other = {B: sympy.Symbol("is2", integer=True), S: sympy.Symbol("is11", integer=True)}
        renamed = [getattr(item, "xreplace", lambda _, item=item: item)(other) for item in (volume, *shape)]
        with faster_conversion():
            assert [solve(volume, shape), solve(volume, shape)] == [expected, expected]
            found = solve(renamed[0], renamed[1:])
        assert found == solve(renamed[0], renamed[1:])


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_inconsistent_program_is_not_written() -> None:
    """A variable that two operators name as theirs, as a wrong graph pass would leave it."""
    from coremltools.converters.mil.mil import Builder, Program

    ct = coremltools()
    mb: Any = Builder

    @mb.program(input_specs=[mb.TensorSpec(shape=(2, 3))], opset_version=ct.target.iOS18)  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        return mb.relu(x=mb.sin(x=x))

    relu = program.functions["main"].operations[-1]
    relu.x._child_ops.append(relu)
    own = Program.validate
    with quiet(), pytest.raises(Exception, match="should be consumed by op"):
        ct.convert(program, convert_to="mlprogram", skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY)
    gc.collect()  # a conversion that failed leaves a directory to the collector
    assert Program.validate is own
