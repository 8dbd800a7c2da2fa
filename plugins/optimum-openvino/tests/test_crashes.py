"""Refusals of graphs on which OpenVINO ends the process, before it compiles them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import openvino
import pytest
from openvino import opset14 as ops

from optimum_core.errors import PrecisionError
from optimum_core.hardware import detect
from optimum_core.testing.machine import Machine
from optimum_core.types import Artifact, SessionRequest
from optimum_openvino.crashes import crash
from optimum_openvino.decoding import OvDecoderSession
from optimum_openvino.devices import cpu_precisions
from optimum_openvino.runtime import writes_beyond

_CHOSEN = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 1}
_AMX = frozenset({"amx_bf16", "avx512_bf16"})


def _layer(gated: bool) -> openvino.Model:
    """Two layers as language models have them: down(silu(gate(x)) * up(x)), or without the gate."""
    drawn = np.random.default_rng(0)
    x = ops.parameter([-1, -1, 64], np.float32)
    value = x
    for _ in range(2):
        up, gate = (
            ops.matmul(value, ops.constant(drawn.standard_normal((128, 64)).astype(np.float32)), False, True)
            for _ in range(2)
        )
        inner = ops.multiply(ops.swish(gate), up) if gated else ops.relu(up)
        value = ops.matmul(inner, ops.constant(drawn.standard_normal((64, 128)).astype(np.float32)), False, True)
    return openvino.Model([ops.result(value)], [x])


@pytest.fixture
def llama(exported: Callable[..., Artifact]) -> Artifact:
    return exported("llama", "openvino-ir", route="module")


@pytest.mark.skipif("bf16" not in cpu_precisions(detect().cpu), reason="this processor has no bf16")
def test_one_thread_on_amx_is_refused(
    llama: Artifact, session_request: Callable[..., SessionRequest], hardware: Machine
) -> None:
    asked = {"precision": "bf16", "threads": 1, "hardware": hardware(features=_AMX | detect().cpu.features)}
    with pytest.raises(PrecisionError, match=r"ends the process") as refused:
        OvDecoderSession.of(session_request(llama, **asked))
    assert "give each stream two threads, or use fp32 or fp16" in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "features", "is_gated"),
    [
        ({"INFERENCE_NUM_THREADS": 2}, _AMX, True),
        ({"INFERENCE_NUM_THREADS": 2, "PERFORMANCE_HINT": "LATENCY"}, _AMX, True),
        ({"INFERENCE_PRECISION_HINT": "f16"}, _AMX, True),
        ({"INFERENCE_PRECISION_HINT": "f32"}, _AMX, True),
        ({}, frozenset({"avx512_bf16"}), True),
        ({}, _AMX, False),
    ],
)
def test_nothing_else_is_refused(
    changed: dict[str, object],
    features: frozenset[str],
    is_gated: bool,
    session_request: Callable[..., SessionRequest],
    hardware: Machine,
    llama: Artifact,
) -> None:
    here = session_request(llama, hardware=hardware(features=features))
    assert crash(_layer(is_gated), here, _CHOSEN | changed) is None
    fatal = session_request(llama, hardware=hardware(features=_AMX))
    assert crash(_layer(gated=True), fatal, _CHOSEN) is not None


_IN_STREAMS: list[dict[str, object]] = [
    {"NUM_STREAMS": 0},
    {"NUM_STREAMS": 2, "INFERENCE_NUM_THREADS": 2},
    {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": 2},
]


@pytest.mark.parametrize("changed", _IN_STREAMS, ids=["the caller's", "two", "OpenVINO's choice"])
def test_so_are_streams_of_one_thread(
    changed: dict[str, object], session_request: Callable[..., SessionRequest], hardware: Machine, llama: Artifact
) -> None:
    request = session_request(llama, hardware=hardware(features=_AMX))
    assert crash(_layer(gated=True), request, _CHOSEN | changed) is not None


@pytest.mark.skipif("amx_bf16" not in detect().cpu.features, reason="this processor has no AMX")
@pytest.mark.parametrize("changed", _IN_STREAMS[:2], ids=["one stream", "two streams"])
def test_the_fault_is_still_there(changed: dict[str, object], llama: Artifact) -> None:
    """Fails once the refusal has become unnecessary."""
    chosen = _CHOSEN | changed
    program = f"import openvino; openvino.Core().compile_model({str(llama.main_file)!r}, 'CPU', {chosen!r})"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -8


@pytest.mark.parametrize(("rows", "writes", "expected"), [(2, True, True), (-1, True, False), (2, False, False)])
def test_a_session_that_writes_into_a_fixed_length_may_crash(rows: int, writes: bool, expected: bool) -> None:
    """Rows beyond a tensor whose length an export fixed are written over other memory."""
    values, places = ops.parameter([-1, -1], np.float32), ops.parameter([-1, -1], np.int64)
    held, axis = ops.parameter([rows, 7], np.float32), ops.constant(1, np.int64)
    found = ops.scatter_elements_update(held, places, values, axis) if writes else ops.gather(held, places, axis)
    model = openvino.Model([found], [held, values, places])
    assert writes_beyond(openvino.compile_model(model, "CPU")) is expected
