"""Recipes, data and files that cannot be quantized are refused by name, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from optimum_core.errors import OptionError, SessionError
from optimum_core.testing.quantizing import weight_only
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest
from optimum_ort import plugin

Make = Callable[..., QuantizeRequest]

DYNAMIC = QuantizeConfig(scheme="dynamic")


REFUSED = {
    "weights": [QuantizeConfig(weights="int4"), weight_only(weights="fp8"), weight_only(weights="bf16")],
    "activations": [
        QuantizeConfig(activations="fp8"),
        QuantizeConfig(weights="uint8", activations="int8"),
        QuantizeConfig(scheme="dynamic", activations="int8"),
    ],
    "algorithm": [
        weight_only(weights="int4", algorithm="gptq"),
        weight_only(weights="nf4", algorithm="hqq"),
        weight_only(algorithm="awq"),
    ],
    "symmetric": [
        weight_only(weights="nf4", symmetric=False),
        weight_only(weights="int4", algorithm="hqq", symmetric=True),
        weight_only(weights="fp16", symmetric=True),
    ],
    "per_channel": [weight_only(weights="int4", per_channel=False), weight_only(weights="fp16", per_channel=True)],
    "group_size": [weight_only(weights="int4", group_size=48), weight_only(weights="int4", group_size=-1)],
    "smooth": [QuantizeConfig(smooth=0.5)],
    "form": [QuantizeConfig(scheme="dynamic", form="qdq"), weight_only(weights="int4", algorithm="hqq", form="qdq")],
}


@pytest.mark.parametrize(("field", "config"), [(field, config) for field in REFUSED for config in REFUSED[field]])
def test_what_cannot_be_honoured_is_refused(
    field: str, config: QuantizeConfig, linear: Artifact, quantize_request: Make
) -> None:
    request = quantize_request(linear, config, calibration=[{"x": np.ones((2, 8), np.float32)}])
    with pytest.raises(OptionError, match=f"field '{field}'") as caught:
        plugin.quantize(request)
    assert caught.value.remedy.startswith(("use", "leave", "for"))


@pytest.mark.parametrize(
    ("batches", "why"), [(None, "there is none"), ([], "there is none"), ([{"z": np.ones(2)}], "lacks input 'x'")]
)
def test_static_needs_data(batches: Any, why: str, linear: Artifact, quantize_request: Make) -> None:
    with pytest.raises(OptionError, match=why):
        plugin.quantize(quantize_request(linear, QuantizeConfig(), calibration=batches))


def test_what_is_not_ours_or_not_float(linear: Artifact, quantize_request: Make, identity: Any) -> None:
    assert plugin.quantize(quantize_request(linear, DYNAMIC, backend="other")) is None
    with pytest.raises(OptionError, match="nothing_known"):
        plugin.quantize(quantize_request(linear, DYNAMIC, options={"nothing_known": 1}))
    with pytest.raises(OptionError, match="there is no matrix product"):
        plugin.quantize(quantize_request(identity(onnx.TensorProto.FLOAT, "float32"), DYNAMIC))


def test_a_broken_model_leaves_nothing_behind(linear: Artifact, quantize_request: Make) -> None:
    linear.main_file.write_bytes(b"no model")
    request = quantize_request(linear, DYNAMIC)
    with pytest.raises(SessionError, match=r"model\.onnx"):
        plugin.quantize(request)
    assert list(request.output.iterdir()) == []
