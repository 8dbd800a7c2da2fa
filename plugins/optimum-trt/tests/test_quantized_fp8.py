"""ONNX of 8-bit floats, from optimum-ort, becomes engines whose products are of 8-bit floats."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from optimum_core.errors import ExportError
from optimum_core.hardware import detect
from optimum_core.models.inputs.samples import Case
from optimum_core.plugins import manager
from optimum_core.types import Artifact, OptimizeRequest, QuantizeConfig, QuantizeRequest, SessionRequest
from optimum_core.verify import verify
from optimum_trt.optimize import prepared

pytest.importorskip("optimum_ort")

Make = Callable[..., OptimizeRequest]
_KINDS = ("bert", "distilbert", "vit")


@pytest.fixture(scope="module")
def quantized(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    @cache
    def make(kind: str) -> Artifact:
        model = tiny(kind)
        request = QuantizeRequest(
            backend="ort",
            artifact=model.artifact,
            config=QuantizeConfig(scheme="static", weights="fp8", activations="fp8"),
            hardware=detect(),
            output=tmp_path_factory.mktemp("fp8"),
            calibration=[model.signature.draw(Case(name="calibration", seed=seed)) for seed in range(40, 44)],
        )
        return manager().quantize(request)

    return make


@pytest.mark.parametrize("kind", _KINDS)
def test_engines_are_built_and_older_gpus_refused(kind: str, quantized: Any, building: Make) -> None:
    source = quantized(kind)
    made = manager().optimize(building(source, device="sm_120" if kind == "distilbert" else "sm_89"))
    assert made.precision == "fp8"
    assert made.main_file.stat().st_size > 0
    if kind == "vit":
        with pytest.raises(ExportError, match="HW-specific datatypes: fp8"):
            manager().optimize(building(source, device="sm_86"))


@pytest.mark.parametrize("kind", _KINDS)
def test_what_is_parsed_is_near_eager(kind: str, quantized: Any, tiny: Any, tmp_path: Path) -> None:
    model, source = tiny(kind), quantized(kind)
    read = prepared(source, None, tmp_path, "test")
    onnx.checker.check_model(read)
    graph = dataclasses.replace(source, path=read.parent, files=(read.name,))
    session = manager().load_session(SessionRequest(backend="ort", artifact=graph, device="cpu", hardware=detect()))
    fidelity = verify(manager().binder(session), model.cases, source.outputs, precision="fp8")
    session.close()
    assert min(result.cosine for result in fidelity.results) > 0.95, fidelity.worst
    assert max(result.relative_error for result in fidelity.results) > 1e-3, "it was rounded"


@pytest.mark.parametrize("narrow", ["fp16", "bf16"])
def test_scales_stay_the_same_numbers_in_16_bits(narrow: str, quantized: Any, building: Make, tmp_path: Path) -> None:
    source = quantized("bert")
    assert manager().optimize(building(source, precision=narrow)).main_file.is_file()
    exact, written = (_scales(path) for path in (source.main_file, prepared(source, narrow, tmp_path, "test")))
    assert exact and exact.keys() <= {name.removesuffix("__narrow") for name in written}
    for name, value in exact.items():
        found = written.get(f"{name}__narrow", written.get(name))
        assert found is not None and np.array_equal(found, value), name


def _scales(path: Path) -> dict[str, Any]:
    graph = onnx.load(path).graph
    constants = {item.name: item for item in graph.initializer}
    pairs = (node for node in graph.node if node.op_type.endswith("tizeLinear") and len(node.input) == 3)
    float8 = onnx.TensorProto.FLOAT8E4M3FN
    names = {node.input[1] for node in pairs if constants[node.input[2]].data_type == float8}
    return {name: onnx.numpy_helper.to_array(constants[name]).astype(np.float32) for name in names}


def test_products_are_of_8_bit_floats(quantized: Any, tmp_path: Path) -> None:
    """The builder says what it made: scales by channel do not turn products back into fp32."""
    trt: Any = pytest.importorskip("tensorrt_rtx")

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.said.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse_from_file(str(prepared(quantized("vit"), None, tmp_path, "test")))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = builder.create_optimization_profile()
    shape = tuple(network.get_input(0).shape)[1:]
    profile.set_shape(network.get_input(0).name, (1, *shape), (2, *shape), (4, *shape))
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    layers = next(message for message in log.said if message.startswith("Layers:")).splitlines()
    products = [line for line in layers if re.search("LayerType: (gemm|conv)", line)]
    in_8_bits = [line for line in products if "Datatype: FP8" in line.partition("Outputs:")[0]]
    assert len(in_8_bits) >= 4, "query, key and value as one, and three more"
