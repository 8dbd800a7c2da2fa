"""The scheme of a quantized artifact, as its steps record it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.backend import needs_wide_sums
from optimum_core.types import Artifact, Cpu


def quantization_of(artifact: Artifact) -> Mapping[str, Any]:
    """Return the configuration that an artifact was quantized by; empty where it was not."""
    steps = [step for step in artifact.steps if step.hook == "quantize"]
    return dict(steps[-1].options.get("config", {})) if steps else {}


def float_products(artifact: Artifact) -> dict[str, str]:
    """Return the entries of a session that keep products in float under "weight-only".

    ONNX Runtime makes MatMulNBits of DequantizeLinear and MatMul, which rounds activations to 8 bits. Told not to, it
    takes 640 ms for a token of SmolLM2-135M with weights in 8 bits, and 50 ms with weights unpacked when it loads; with
    4 bits, it has fast kernels for both.
    """
    config = quantization_of(artifact)
    if config.get("scheme") != "weight-only":
        return {}
    if config.get("form") == "qdq":
        return {"session.qdq_matmulnbits_accuracy_level": "1"}
    return {"session.disable_quant_qdq": "1"}


def exact_sums(artifact: Artifact, cpu: Cpu) -> dict[str, str]:
    """Return the entries of a session that keep sums of 8-bit products from overflowing where they may.

    ONNX Runtime then multiplies by unsigned weights, which it adds in 32 bits. Without, a sum of 77 came out as 41 on a
    processor with AVX2 alone (MatMulInteger, QLinearConv and pairs alike, onnxruntime 1.31).
    """
    return {"session.x64quantprecision": "1"} if needs_wide_sums(artifact, cpu) else {}
