"""Traces of models that `export_ready` prepared, on other values and lengths than those of their samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from optimum_core.errors import ExportError
from optimum_core.models.exporting import OnnxRequest
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.exporting.rewriting.traced_lengths import traced_rounding
from optimum_core.models.exporting.torchscript import write
from optimum_core.types import TensorSpec

Inputs = dict[str, torch.Tensor]
Exported = Callable[[torch.nn.Module, Inputs], Callable[[Inputs], Any]]


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    """Export a module by tracing, both axes of each input varying; return the graph as a function."""

    def export(module: torch.nn.Module, samples: Inputs) -> Callable[[Inputs], Any]:
        path = tmp_path / "model.onnx"
        specs = [TensorSpec(name=name, dtype="float32", shape=("batch", "length")) for name in samples]
        output = TensorSpec(name="y", dtype="float32", shape=("batch", "length"))
        with export_ready(module.eval()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(
                OnnxRequest(module=module, samples=samples, inputs=tuple(specs), outputs=(output,), opset=18, path=path)
            )
        evaluator = ReferenceEvaluator(onnx.load(path))
        return lambda inputs: evaluator.run(["y"], {name: tensor.numpy() for name, tensor in inputs.items()})[0]

    return export


def _same(graph: Callable[[Inputs], Any], module: torch.nn.Module, inputs: Inputs) -> None:
    with torch.no_grad():
        wanted = module(**inputs)["y"].numpy()
    np.testing.assert_allclose(graph(inputs), wanted, atol=1e-5 * max(1.0, np.abs(wanted).max(initial=0.0)))


class _Turned(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1])
        turn = torch.polar(torch.ones_like(angles), angles) * 0.5
        pairs = torch.view_as_complex(x[..., None].repeat(1, 1, 4).reshape(*x.shape, 2, 2))
        turned = torch.view_as_real(pairs * turn[None, :, :].unsqueeze(0)[0].to(x.device)).flatten(2)
        return {"y": turned.sum(-1)}


def test_complex_rotations_are_written_in_real_numbers(exported: Exported) -> None:
    graph = exported(_Turned(), {"x": torch.randn(2, 3)})
    _same(graph, _Turned(), {"x": torch.randn(1, 7)})


class _Experts(torch.nn.Module):
    """Four experts, which multiply by their number; a row's first value chooses one."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        chosen = x[:, :1].long()
        mask = torch.nn.functional.one_hot(chosen, num_classes=4).permute(2, 1, 0)
        made = torch.zeros_like(x)
        for expert in torch.greater(mask.sum(dim=(-1, -2)), 0).nonzero():
            _, rows = torch.where(mask[expert].squeeze(0))
            made.index_add_(0, rows, x[rows] * (1.0 + float(f"{expert[0]}")))
        return {"y": made}


def test_experts_that_the_samples_did_not_use_are_exported(exported: Exported) -> None:
    graph = exported(_Experts(), {"x": torch.tensor([[1.0, 5.0], [1.0, 6.0]])})
    _same(graph, _Experts(), {"x": torch.tensor([[3.0, 5.0], [0.0, 6.0], [3.0, 7.0]])})


class _Sorted(torch.nn.Module):
    """Rows sorted by their expert and split, as JetMoE does; each goes to two places of the sum."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        chosen = x[:, 0].long()
        counts = torch.nn.functional.one_hot(chosen, num_classes=4).sum(0).tolist()
        order = chosen.sort(0)[1]
        parts = torch.split(x[order], counts)
        made = torch.cat([part * (1 + number) for number, part in enumerate(parts)])
        twice = torch.cat((made, made))
        return {"y": torch.zeros_like(x).index_add(0, torch.cat((order, order)), twice)}


def test_counts_of_tokens_are_not_fixed_and_sums_at_one_place_are_sums(exported: Exported) -> None:
    graph = exported(_Sorted(), {"x": torch.tensor([[1.0, 5.0], [2.0, 6.0], [1.0, 7.0]])})
    _same(graph, _Sorted(), {"x": torch.tensor([[3.0, 5.0], [0.0, 6.0]])})


class _Padded(torch.nn.Module):
    """Pads to a multiple of four, and takes the padding off again."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        padding = (4 - x.shape[1] % 4) % 4
        if padding > 0:
            x = torch.nn.functional.pad(x, (0, padding), value=1.0)
        made = x.cumsum(1) * math.ceil(x.shape[1] / 3)
        return {"y": made[:, :-padding] if padding > 0 else made}


@pytest.mark.parametrize("length", [4, 5, 8, 11, 50, 90, 100])
def test_padding_that_is_taken_off_may_be_none(exported: Exported, length: int) -> None:
    graph = exported(_Padded(), {"x": torch.randn(2, 6)})
    _same(graph, _Padded(), {"x": torch.randn(3, length)})


class _Overlapping(torch.nn.Module):
    """Windows of four that overlap by two, as Longformer's."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        wide = x[..., None].expand(*x.shape, 3).transpose(0, 1).reshape(x.shape[1], x.shape[0], 3).transpose(0, 1)
        cut = wide.view(wide.size(0), wide.size(1) // 4, 4, 3)
        size, stride = list(cut.size()), list(cut.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return {"y": cut.as_strided(size=size, stride=stride).sum((2, 3))}


@pytest.mark.parametrize("shape", [(1, 8), (3, 12)])
def test_overlapping_windows_follow_the_lengths(exported: Exported, shape: tuple[int, int]) -> None:
    graph = exported(_Overlapping(), {"x": torch.randn(2, 8)})
    _same(graph, _Overlapping(), {"x": torch.randn(*shape)})


class _Of(torch.nn.Module):
    """A function of x as a module."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self._function(x)}


def _masked_end(x: torch.Tensor) -> torch.Tensor:
    """Take off padding along the axis after two that a mask takes."""
    wide, padding = x[..., None].repeat(1, 1, 9), 4 - x.shape[1] % 4
    if padding > 0:
        wide = wide[x > -9, :-padding]
    return wide


#: Slices and lists of places that are used as such.
_PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "end may be of either sign": lambda x: x.sum(1) + x[:, : x.shape[1] - 9].sum(1),
    "end may be 0": lambda x: x[:, : x.shape[1] - 3],
    "unguarded end": lambda x: x[:, : -(x.shape[1] % 4)].sum(1),
    "end after a mask": _masked_end,
    "places of columns": lambda x: x[:, ((x > 0).sum(0) > 0).nonzero()[:, 0]],
    "places of rows": lambda x: x[((x[..., None] > 0).sum((-1, -2)) > 0).nonzero()[:, 0]],
    "places in a mask of experts": lambda x: x[
        :, torch.greater(_one_hot(x).permute(2, 1, 0).sum((-1, -2)), 0).nonzero()[:, 0]
    ],
}


def _one_hot(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot((x[:, :1] > 0).long(), num_classes=2)


@pytest.mark.parametrize("form", list(_PLAIN))
@pytest.mark.parametrize("length", [3, 7, 8, 12])
def test_other_slices_and_places_stay_what_they_are(exported: Exported, form: str, length: int) -> None:
    module = _Of(_PLAIN[form])
    graph = exported(module, {"x": torch.ones(2, 3) * torch.tensor([[1.0], [-1.0]])})
    values = torch.arange(1.0, 1.0 + 2 * length).reshape(2, length)
    values[:, 1] = -1.0
    values[1] = -1.0
    _same(graph, module, {"x": values})


def test_a_share_of_a_length_is_not_rounded_in_another_type(exported: Exported) -> None:
    # Just above 63 in 32 bits, and 63 in 64: the trace keeps the number of its samples, which comparisons find.
    graph = exported(_Of(lambda x: x * (1 + math.ceil(0.7 * x.shape[1]))), {"x": torch.ones(2, 10)})
    assert set(np.unique(graph({"x": torch.ones(1, 90)}))) == {8.0}


def test_roundings_are_python_s_after_exports_that_overlap() -> None:
    before = math.ceil, math.floor
    first, second = traced_rounding(), traced_rounding()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert math.ceil is not before[0]
    second.__exit__(None, None, None)
    assert (math.ceil, math.floor) == before


def _third(x: torch.Tensor, length: int) -> torch.Tensor:
    return x[:, : math.floor(length / 3)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_compiled_during_an_export_rounds_as_before() -> None:
    with traced_rounding():
        compiled = torch.jit.script(_third)
    assert compiled(torch.ones(1, 9), 7).shape == (1, 2)


def _complex(x: torch.Tensor) -> torch.Tensor:
    return torch.complex(x, x + 1)


#: Arithmetic of complex tensors that has no form in pairs.
_COMPLEX: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda x: (_complex(x) + _complex(x)).real,
    "sum with a number": lambda x: (1 + _complex(x) + 1).imag,
    "negation": lambda x: (-_complex(x)).imag,
    "difference": lambda x: (_complex(x) - x).real,
    "quotient": lambda x: (_complex(x) / 2).imag,
    "list": lambda x: torch.cat([_complex(x), _complex(x)]).imag,
    "keyword": lambda x: torch.fft.ifft(input=_complex(x)).real,
    "size": lambda x: abs(_complex(x)),
}
_CHANGED: dict[str, Callable[[torch.Tensor], object]] = {
    "method": lambda pair: pair.mul_(2),
    "item": lambda pair: pair.__setitem__(0, 0),
    "operator": lambda pair: pair.__imul__(2),
    "function": lambda pair: torch.neg(pair, out=pair),
}


@pytest.mark.parametrize("form", list(_COMPLEX))
def test_other_arithmetic_of_complex_tensors_is_theirs(form: str) -> None:
    module = _Of(_COMPLEX[form]).eval()
    x, other = torch.randn(2, 3), torch.randn(2, 3)
    with export_ready(module):
        np.testing.assert_allclose(module(x)["y"], module._function(x))  # outside a trace
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(lambda x: module(x)["y"], (x,))  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(other), module(other)["y"])


@pytest.mark.parametrize("form", list(_CHANGED))
def test_a_change_in_place_of_a_complex_tensor_is_refused(exported: Exported, form: str) -> None:
    def changed(x: torch.Tensor) -> torch.Tensor:
        pair = _complex(x)
        _CHANGED[form](pair)
        return pair.real

    with pytest.raises(ExportError, match="in place"):
        exported(_Of(changed), {"x": torch.randn(2, 3)})


_ADDED: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "alpha of one": lambda x, at: torch.zeros_like(x).index_add(0, at, x, alpha=1),
    "another alpha": lambda x, at: torch.zeros_like(x).index_add_(0, at, x, alpha=3),
    "by name": lambda x, at: torch.index_add(input=torch.zeros_like(x), dim=-2, index=at, source=x),
    "one number": lambda x, at: x + torch.zeros(()).index_add(0, at[:1], x[0, 0]),
}


@pytest.mark.parametrize("form", list(_ADDED))
def test_rows_for_one_place_are_added(exported: Exported, form: str) -> None:
    module = _Of(lambda x: _ADDED[form](x, torch.zeros(x.shape[0], dtype=torch.int64)))
    graph = exported(module, {"x": torch.randn(2, 3)})
    _same(graph, module, {"x": torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]])})
