"""Arithmetic in types that converters leave out: sums over booleans and narrow integers, which torch adds up in 64
bits, and bfloat16 within float32; in ONNX too, by both routes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from optimum_core.models.backends.onnx_files import plugin as onnx_plugin
from optimum_core.models.exporting import ROUTES
from optimum_core.models.exporting.rewriting.promotion import ExplicitPromotion
from optimum_core.models.sources.source import MemorySource
from optimum_core.types import ExportRequest, TensorSpec

_AXES = ("batch", "sequence")


class _Positions(torch.nn.Module):
    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = input_ids > 0
        counts = mask.cumsum(-1)
        biases = (self.slopes[:, None, None].bfloat16() * counts).sum(0).to(torch.float32)
        return {"hidden": counts * mask, "blocks": torch.cumsum(mask.to(torch.int8), dim=1) // 100, "biases": biases}

    slopes = torch.tensor([0.3, 0.25])


@pytest.mark.parametrize("route", ROUTES)
def test_sums_pass_what_8_bits_hold(route: str, tmp_path: Path) -> None:
    module, ids = _Positions(), torch.randint(0, 9, (2, 900), generator=torch.Generator().manual_seed(0))
    made = onnx_plugin.export(
        ExportRequest(
            backend=onnx_plugin.NAME, source=MemorySource(module), task="feature-extraction", format="onnx",
            precision="fp32", samples={"input_ids": ids[:, :12].numpy()},
            inputs=(TensorSpec(name="input_ids", dtype="int64", shape=_AXES),),
            outputs=tuple(
                TensorSpec(name=name, dtype="float32" if name == "biases" else "int64", shape=_AXES)
                for name in ("hidden", "blocks", "biases")
            ),
            output=tmp_path, route=route,
        )
    )  # fmt: skip
    assert made is not None
    session = onnxruntime.InferenceSession(str(made.main_file), providers=["CPUExecutionProvider"])
    for found, want in zip(session.run(None, {"input_ids": ids.numpy()}), module(ids).values(), strict=True):
        np.testing.assert_array_equal(found, want.numpy())


def test_only_what_torch_promotes_is_converted() -> None:
    mask = torch.ones(3, dtype=torch.bool)
    with ExplicitPromotion():
        assert mask.cumsum(0, dtype=torch.int8).dtype == torch.int8
        assert torch.prod(mask).dtype == mask.cumsum(0).dtype == torch.int64
        assert torch.cumsum(mask.half(), 0).dtype == torch.float16
