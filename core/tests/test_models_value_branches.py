# mypy: disable-error-code="no-any-return, attr-defined, no-untyped-call"
"""A trace keeps what Python read of a value; which lines did is told, and no others are."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core.errors import ExportError
from optimum_core.models.backends.onnx_files.plugin import export
from optimum_core.models.eager.calls import FlatModule
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.exporting.value_branches import traced_reads, value_branches
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import describe
from optimum_core.models.silence import silence
from optimum_core.models.sources.source import MemorySource

_log = logging.getLogger(__name__)


class _Model(torch.nn.Module):
    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.read = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self, x)


def _branch(self: Any, x: torch.Tensor) -> torch.Tensor:
    if x.max() > 2:  # read here
        x = x / 255
    return self.layer(x)


def _branch_on_what_was_computed(self: Any, x: torch.Tensor) -> torch.Tensor:
    hidden = self.layer(x)
    hidden[0] = 0
    return hidden + 1 if hidden.sum() > 0 else hidden  # read here


def _loop(self: Any, x: torch.Tensor) -> torch.Tensor:
    for _ in range(int(x.abs().max())):  # read here
        x = self.layer(x)
    return x


def _number(self: Any, x: torch.Tensor) -> torch.Tensor:
    scale = x.max().item()  # read here
    return self.layer(x) * scale


def _list(self: Any, x: torch.Tensor) -> torch.Tensor:
    first = x.amax(1).tolist()[0]  # read here
    return self.layer(x) * first


def _equal(self: Any, x: torch.Tensor) -> torch.Tensor:
    whole = x.equal(x.round())  # read here
    return self.layer(x) * (2 if whole and not torch.equal(x, -x) else 3)  # read here


def _memory(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.layer(x) * x.untyped_storage()[0]  # read here


def _count(self: Any, x: torch.Tensor) -> torch.Tensor:
    some = x[x > 2] * 2
    if some.numel() > 3 and len((x < 0).nonzero()) < 2 and x.unique().shape[0] < 9:  # read here
        x = x + 1
    rows = torch.zeros_like(x).index_add(0, (x[:, 0] > 2).nonzero()[:, 0], x[x[:, 0] > 2])
    if rows.shape[0] > 1:
        rows = rows + 1
    return self.layer(rows)


def _count_before(self: Any, x: torch.Tensor) -> torch.Tensor:
    count, rows = x.unique().numel(), x[x[:, 0] > 2].shape[0]
    other, half = len((x > 2).nonzero()), rows // 2 + 1  # read here
    factor = 1
    if count < 3:  # read here
        factor = 2
    if half > other:  # read here
        factor = 3
    return self.layer(x) * (factor if x.shape[0] > 1 else 5)


def _count_of_like(self: Any, x: torch.Tensor) -> torch.Tensor:
    values, places = x.unique(return_inverse=True)
    ones = torch.ones_like(x[x > 2])
    if ones.shape[0] > 3:  # read here
        x = x + 1
    rows = x.unique(dim=1).shape[0]
    if rows > 1 and places.numel() > 3 and torch.zeros_like(x).sum() < 1:
        x = x + values[0]
    if x.unique(dim=1).shape[1] > 1:  # read here
        x = x + 1
    return self.layer(x)


def _complaints(self: Any, x: torch.Tensor) -> torch.Tensor:
    if x.min() < -1e6:
        lowest = float(x.min())
        raise ValueError(f"{lowest} is too low")
    assert x.max() < 1e6
    if x.mean() > 1e5:
        _log.warning("these are large")
    return self.layer(x)


def _shapes(self: Any, x: torch.Tensor) -> torch.Tensor:
    rows = torch.tensor(x.shape[0])
    if rows > 1 and x.shape[1] > 2 and torch.ones_like(x).sum() > 3:
        x = x + 1
    return self.layer(x)


def _weights(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.layer(x) * float(self.layer.weight.max()) if self.layer.bias.max() > -9 else x


def _skipped(self: Any, x: torch.Tensor) -> torch.Tensor:
    if not torch.jit.is_tracing() and (x == 1).all():
        return self.layer(torch.ones_like(x))
    return self.layer(x)


def _lines(function: Callable[..., Any]) -> tuple[str, ...]:
    lines, first = inspect.getsourcelines(function)
    return tuple(f"{Path(__file__).name}:{first + i}" for i, line in enumerate(lines) if "# read here" in line)


def _named(module: torch.nn.Module, samples: tuple[torch.Tensor, ...]) -> tuple[str, ...]:
    with silence(), export_ready(module), torch.no_grad():
        with traced_reads() as reads:
            torch.jit.trace(module, samples, strict=False, check_trace=False)
        return value_branches(reads, module, samples)


@pytest.mark.parametrize(
    "forward",
    [
        _branch,
        _branch_on_what_was_computed,
        _loop,
        _number,
        _list,
        _equal,
        _memory,
        _count,
        _count_before,
        _count_of_like,
        _complaints,
        _shapes,
        _weights,
        _skipped,
    ],
    ids=lambda function: function.__name__.strip("_"),
)
def test_lines_that_read_a_value_are_named(forward: Callable[..., Any]) -> None:
    assert _named(_Model(forward).eval(), (torch.full((2, 4), 3.0),)) == _lines(forward)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5", "clip"])
def test_models_of_transformers_have_none(described: Callable[[str], Any], kind: str) -> None:
    """They read shapes, and values only where nothing is traced."""
    module, signature = described(kind)
    drawn = signature.draw(Case(name="traced"))
    samples = tuple(torch.as_tensor(drawn[spec.name]) for spec in signature.inputs)
    flat = FlatModule(module, list(drawn), [spec.name for spec in signature.outputs]).eval()
    assert _named(flat, samples) == ()


def test_the_step_of_an_export_names_them(tmp_path: Path) -> None:
    source = MemorySource(_Model(_branch).eval())
    signature = describe(source.module(), name="bright", samples={"x": torch.full((2, 4), 3.0).numpy()})
    for route in ("torchscript", "dynamo"):
        output = tmp_path / route
        output.mkdir()
        request = export_of("onnx", "onnx", source, signature, output, route=route)
        if route == "dynamo":
            with pytest.raises(ExportError, match="data-dependent"):
                export(request)
        else:
            artifact = export(request)
            assert artifact is not None and artifact.steps[0].options["branches"] == list(_lines(_branch))
