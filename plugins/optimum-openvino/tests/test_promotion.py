"""Sums over booleans and narrow integers, which torch adds up in 64 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.models.sources.source import MemorySource
from optimum_core.types import Artifact, ExportRequest, TensorSpec
from optimum_openvino import plugin
from optimum_openvino.devices import ROUTES
from optimum_openvino.session import OvSession

_IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))


class _Counting(torch.nn.Module):
    """Positions, counts and blocks, as models make them of a mask."""

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        mask = input_ids > 0
        counts = mask.cumsum(-1)
        return {
            "positions": counts - 1,
            "hidden": counts * mask,
            "blocks": torch.cumsum(mask.to(torch.int8), dim=1) // 100,
            "seen": mask.sum(-1, keepdim=True) + input_ids,
            "shares": counts / mask.cumsum(-1, dtype=torch.float32)[:, -1:],
            "biases": (torch.tensor(0.3).bfloat16() * counts).to(torch.float32),
            "product": mask[:, :9].to(torch.uint8).mul(2).prod(-1, keepdim=True) * input_ids,
        }


@pytest.mark.parametrize("route", ROUTES)
def test_sums_pass_what_8_bits_hold(route: str, tmp_path: Path, load: Callable[[Artifact], OvSession]) -> None:
    module, ids = _Counting(), torch.randint(0, 9, (2, 900), generator=torch.Generator().manual_seed(0))
    want = {name: value.numpy() for name, value in module(ids).items()}
    dtypes: dict[str, Any] = {name: str(value.dtype) for name, value in want.items()}
    artifact = plugin.export(
        ExportRequest(
            backend="openvino", source=MemorySource(module), task="feature-extraction", format="openvino-ir",
            precision="fp32", samples={"input_ids": ids[:, :12].numpy()}, inputs=(_IDS,),
            outputs=tuple(TensorSpec(name=name, dtype=dtypes[name], shape=_IDS.shape) for name in want),
            output=tmp_path, route=route,
        )
    )  # fmt: skip
    assert artifact is not None
    found = load(artifact).run({"input_ids": ids.numpy()})
    for name, value in want.items():
        np.testing.assert_allclose(np.asarray(found[name]), value, rtol=1e-6, err_msg=name)
