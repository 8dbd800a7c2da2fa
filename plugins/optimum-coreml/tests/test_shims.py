"""Each shim: right against torch at shapes that were not traced, and still needed."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from optimum_coreml import shims as module
from optimum_coreml.coremltools_adapter import quiet
from optimum_coreml.shims import SHIMS, registry, shims
from optimum_coreml.storage import read_program, save, weights_file
from optimum_coreml_interpreter import Program

Tensor = torch.Tensor
I32, F32 = np.int32, np.float32


class Calls(torch.nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def converted(
    function: Callable[..., Any], samples: list[Tensor], route: str, folder: Path, outputs: tuple[str, ...] = ("y",)
) -> Program:
    """`function` as a program; the first axis of every sample varies."""
    flat = Calls(function).eval()
    with quiet() as ct:
        rows = ct.RangeDim(1, 64, default=samples[0].shape[0])
        inputs = [
            ct.TensorType(
                name=f"x{index}", shape=(rows, *item.shape[1:]), dtype=I32 if not item.is_floating_point() else F32
            )
            for index, item in enumerate(samples)
        ]
        if route == "trace":
            trace: Any = torch.jit.trace
            program: Any = trace(flat, tuple(samples), check_trace=False)
        else:
            shapes = (tuple({0: torch.export.Dim.AUTO} for _ in samples),)
            program = torch.export.export(flat, tuple(samples), dynamic_shapes=shapes).run_decompositions({})
        made = ct.convert(
            program,
            inputs=inputs,
            outputs=[ct.TensorType(name=name) for name in outputs],
            minimum_deployment_target=ct.target.iOS18,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        save(made, folder, {})
    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_same(found: Tensor, want: Tensor) -> None:
    """Core ML has 32 bits alone."""
    assert found.is_floating_point() == want.is_floating_point()
    torch.testing.assert_close(found.to(torch.float32), want.to(torch.float32))


def hidden(x: Tensor) -> Tensor:
    """Queries of which some may see nothing."""
    mask = (x[:, None, :, 0] > 0).expand(-1, x.shape[1], -1) & (x[..., :1] > -0.3)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask, scale=0.3)


def all_hidden(x: Tensor) -> Tensor:
    """Without a scale: the fused operator, which gives NaN to a query that may see nothing."""
    mask = (x[:, None, :, 0] > 0).expand(-1, x.shape[1], -1) & (x[..., :1] > -0.3)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def _whole(x: Tensor) -> Tensor:
    return (x * 2).to(torch.int32)


def _to_size(mode: str, aligned: bool) -> Callable[[Tensor], Tensor]:
    """Of a picture as high as there are rows, to another size that follows from the rows."""
    return lambda x: F.interpolate(x[None, None], size=(x.shape[0] + 3, 7), mode=mode, align_corners=aligned)


WEIGHT, BIAS = (torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))

#: By the operator: what calls it, and the shape of the sample.
CASES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "new_ones": (lambda x: x.new_ones((x.shape[0], 3)) + x, (4, 3)),
    "new_ones, of another type": (lambda x: x + x.new_ones((x.shape[0], 3), dtype=torch.int64), (4, 3)),
    "new_zeros": (lambda x: _whole(x).new_zeros((x.shape[0], 3)) + _whole(x), (4, 3)),
    "new_full": (lambda x: x.new_full((x.shape[0], 3), 2.5, dtype=torch.int32) * _whole(x), (4, 3)),
    "new_full, a flag": (lambda x: (x.new_full((x.shape[0], 3), 0.5, dtype=torch.bool) & (x > 0)).float(), (4, 3)),
    "where, other a number": (lambda x: torch.where(x > 0, x, 0.5), (4, 3)),
    "where, self a number": (lambda x: torch.where(x > 0, 1, _whole(x)), (4, 3)),
    "where, a larger condition": (lambda x: torch.where(x[:, None] > 0, x[:1, None, :], -1.0), (4, 3)),
    "where, a larger condition of flags": (lambda x: torch.where(x > 0, x[:1] > 1, x[:1] < 0).float(), (4, 3)),
    "masked_fill, a larger mask": (lambda x: x[:1].masked_fill(x > 0, 7.0), (4, 3)),
    "and": (lambda x: ((x > -1) & (x < 1)).float(), (4, 3)),
    "or": (lambda x: ((x < -1) | (x > 1)).float(), (4, 3)),
    "xor": (lambda x: ((x < 0.5) ^ (x > -0.5)).float(), (4, 3)),
    "multiply": (lambda x: torch.multiply(x, x + 1), (4, 3)),
    "mod": (lambda x: torch.cat([x, x[: x.shape[0] % 3 + 1]]), (4, 3)),
    "floordiv": (lambda x: torch.zeros(x.shape[0] // 2 + 1, 3) + x[:1], (4, 3)),
    "floor_divide": (lambda x: torch.floor_divide(_whole(x), 3) * _whole(x), (4, 3)),
    "alias": (lambda x: torch.ops.aten.alias(x) + 1, (4, 3)),
    "group_norm": (lambda x: F.group_norm(x, 3, WEIGHT, BIAS, 1e-3), (4, 6, 5)),
    "group_norm, of vectors": (lambda x: F.group_norm(x, 2, None, None), (4, 6)),
    "im2col": (lambda x: F.unfold(x, (3, 2), padding=(1, 0), stride=(2, 1), dilation=(1, 2)), (4, 2, 5, 6)),
    "upsample_bilinear2d": (_to_size("bilinear", False), (4, 3)),
    "upsample_bilinear2d, aligned": (_to_size("bilinear", True), (4, 3)),
    "upsample_bilinear2d, to a fixed size": (
        lambda x: F.interpolate(x[None, None], size=(5, 2), mode="bilinear", align_corners=False),
        (4, 3),
    ),
    "upsample_bicubic2d": (_to_size("bicubic", False), (4, 3)),
    "upsample_bicubic2d, aligned": (_to_size("bicubic", True), (4, 3)),
    "upsample_bicubic2d, by a factor": (
        lambda x: F.interpolate(x[None, None], scale_factor=(1.5, 2.0), mode="bicubic", align_corners=False),
        (4, 3),
    ),
    "attention that sees nothing": (hidden, (4, 5, 8)),
    "fused attention that sees nothing": (all_hidden, (4, 5, 8)),
}


def all_cases(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(function(x) for (function, _), x in zip(CASES.values(), tensors, strict=True))


Outputs = dict[int, dict[str, Tensor]]


@pytest.fixture(scope="module", params=["trace", "export"])
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """Outputs of one program of all cases, by the number of rows: a conversion takes a second, however small it is."""
    samples = [floats(*shape) for _, shape in CASES.values()]
    names = tuple(f"y{index}" for index in range(len(CASES)))
    with shims():
        program = converted(all_cases, samples, request.param, tmp_path_factory.mktemp("cases"), names)
    return {
        rows: program.run({f"x{index}": drawn(rows, name) for index, name in enumerate(CASES)}) for rows in (4, 1, 7)
    }


def drawn(rows: int, name: str) -> Tensor:
    return floats(rows, *CASES[name][1][1:])


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, computed: Outputs) -> None:
    for rows, outputs in computed.items():
        assert_same(outputs[f"y{list(CASES).index(name)}"], CASES[name][0](drawn(rows, name)))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_whole_numbers_have_no_bits_in_core_ml(tmp_path: Path) -> None:
    for route in ("trace", "export"):
        with shims(), pytest.raises(NotImplementedError, match="for booleans only"):
            converted(lambda x: _whole(x) & 3, [floats(4, 3)], route, tmp_path)
    gc.collect()  # a conversion that failed leaves a directory to the collector


def _by_a_constant(x: Tensor) -> Tensor:
    """A constant of one element as a number."""
    return x * int(torch.full([1], 3.0))


def _by_the_rows(x: Tensor) -> Tensor:
    rows = torch.arange(x.shape[0]).max().reshape(1) + 1
    return x[: int(torch.div(rows, 2, rounding_mode="floor"))] * 2


def scripted(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """As it stands: tracing would bake the numbers in."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Callable[[Tensor], Tensor] = torch.jit.script(function)
    return found


@pytest.mark.parametrize("plain", [_by_a_constant, _by_the_rows])
def test_one_number_as_int(plain: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    function = scripted(plain) if plain is _by_a_constant else plain
    with shims(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing tells that it bakes a number in where it does
        program = converted(function, [floats(4, 3)], "trace", tmp_path)
    torch.testing.assert_close(program.run({"x0": floats(4, 3)})["y"], function(floats(4, 3)))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_int_is_still_needed(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="only"):
        converted(scripted(_by_a_constant), [floats(4, 3)], "trace", tmp_path)
    gc.collect()  # a conversion that failed leaves a directory to the collector


#: Operators that coremltools would convert without a shim; what it gives is wrong, or fails elsewhere.
NEEDED = {
    "new_ones": "new_ones",
    "masked_fill": "masked_fill, a larger mask",
    "where": "where, a larger condition",
    "scaled_dot_product_attention": "attention that sees nothing",
    "multiply": "multiply",
    "new_zeros": "new_zeros",
    "new_full": "new_full",
    "mod": "mod",
    "floordiv": "floordiv",
    "alias": "alias",
    "group_norm": "group_norm",
    "im2col": "im2col",
    "upsample_bilinear2d": "upsample_bilinear2d",
    "upsample_bicubic2d": "upsample_bicubic2d",
    "where.scalarother": "where, other a number",
    "and": "and",
    "or": "or",
    "xor": "xor",
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NEEDED)
def test_it_is_still_needed(name: str, tmp_path: Path) -> None:
    """Without it, one route at least fails or is wrong. Once none is, the shim may go."""
    function, shape = CASES[NEEDED[name]]
    fine = 0
    for route in ("trace", "export"):
        try:
            program = converted(function, [floats(*shape)], route, tmp_path / route)
            x = floats(7, *shape[1:])
            assert_same(program.run({"x0": x})["y"], function(x))
            fine += 1
        except Exception:  # noqa: BLE001 - in whatever way
            continue
    gc.collect()  # a conversion that failed leaves a directory to the collector
    assert fine < 2


def test_they_are_lent_and_taken_back() -> None:
    before = dict(registry.name_to_func_mapping)
    with pytest.raises(RuntimeError, match="in between"), shims():
        assert registry.name_to_func_mapping["new_ones"] is not before.get("new_ones")
        raise RuntimeError("in between")
    assert registry.name_to_func_mapping == before


def test_a_later_coremltools_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = dict(registry.name_to_func_mapping)
    monkeypatch.setattr(module, "version", lambda name: "9.1")
    with shims():
        now = registry.name_to_func_mapping
        assert all(now[name] is own[name] for shim in SHIMS for name in shim.names if name in own)
        assert "new_ones" in now
