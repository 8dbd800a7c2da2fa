"""The workbench of backend authors, on quantizing: what a backend cannot do is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimum_core import backend
from optimum_core.errors import OptionError
from optimum_core.types import Artifact, QuantizeConfig, QuantizeRequest, TensorSpec
from optimum_core.types.hardware import Cpu, Hardware

WHO = "backend 'acme'"
IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))
LOGITS = TensorSpec(name="logits", dtype="float32", shape=("batch", 2))
MACHINE = Hardware(
    system="linux",
    system_version="",
    cpu=Cpu(vendor="", model="", architecture="x86_64", features=frozenset(), physical_cores=1, usable_cores=1),
    memory=1 << 30,
)


def quantize(config: QuantizeConfig | None = None, **changes: Any) -> QuantizeRequest:
    fields: dict[str, Any] = {"calibration": [{"input_ids": np.ones((1, 8))}], "options": {}, **changes}
    artifact = Artifact(
        format=fields.pop("format", "acme-ir"),
        path=Path("here"),
        files=("model.acme",),
        inputs=(IDS,),
        outputs=(LOGITS,),
        precision=fields.pop("precision", "fp32"),
    )
    config = config or QuantizeConfig()
    output = fields.pop("output", Path("out"))
    return QuantizeRequest(backend="acme", artifact=artifact, config=config, hardware=MACHINE, output=output, **fields)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": "onnx"}, "it does not quantize 'onnx'"),
        ({"options": {"level": 1}}, "unknown option 'level'"),
        ({"precision": "int8"}, "cannot quantize 'int8'"),
        ({"config": QuantizeConfig(scheme="dynamic")}, "field 'scheme' cannot be 'dynamic' here"),
        ({"config": QuantizeConfig(scheme="weight-only", weights="nf4")}, "field 'weights' cannot be 'nf4' here"),
    ],
)
def test_what_is_not_quantized_is_refused(changes: dict[str, Any], why: str) -> None:
    weights = {"static": ("int8",), "weight-only": ("int8", "int4")}
    backend.check_quantization(quantize(), WHO, takes="acme-ir", weights=weights)
    with pytest.raises(OptionError) as caught:
        backend.check_quantization(quantize(**changes), WHO, takes="acme-ir", weights=weights)
    assert caught.value.why == why


def test_the_first_wrong_field_is_refused() -> None:
    config = QuantizeConfig(smooth=0.5, form="qdq")
    backend.check_fields(config, WHO, {"form": (False, "")})
    with pytest.raises(OptionError, match=r"field 'smooth' cannot be 0\.5 here") as caught:
        backend.check_fields(config, WHO, {"form": (False, ""), "smooth": (True, "leave it out")})
    assert caught.value.remedy == "leave it out"


def test_calibration_has_every_input() -> None:
    backend.check_calibration(quantize(), WHO, "scheme 'dynamic'")
    with pytest.raises(OptionError, match="static quantization needs calibration data") as caught:
        backend.check_calibration(quantize(calibration=None), WHO, "scheme 'dynamic'")
    assert caught.value.remedy.endswith("or use scheme 'dynamic'")
    with pytest.raises(OptionError, match="calibration lacks input 'input_ids'; it has mask"):
        backend.check_calibration(quantize(calibration=[{"mask": 1}]), WHO, "")
    config = QuantizeConfig(scheme="weight-only", weights="int4", algorithm="gptq")
    with pytest.raises(OptionError, match="'gptq' needs calibration data"):
        backend.check_calibration(quantize(config, calibration=[]), WHO, "")


def test_a_processor_overflows_where_it_has_no_wide_sums() -> None:
    plain = MACHINE.cpu
    assert backend.overflows(plain) and not backend.sums_widely(plain)
    assert not backend.overflows(replace(plain, architecture="aarch64"))
    wide = replace(plain, features=frozenset({"avx512_vnni"}))
    assert backend.sums_widely(wide) and not backend.overflows(wide)


def test_sums_are_wide_where_no_step_says_that_the_weights_are_small(tmp_path: Path) -> None:
    def made(scheme: str, **chosen: Any) -> Artifact:
        asked = quantize(QuantizeConfig(scheme=scheme), output=tmp_path)
        return backend.quantized(asked, ["a"], tool="acme", version="1", chosen=chosen)

    given, cpu = replace(made("dynamic"), steps=()), MACHINE.cpu
    found = [made("dynamic", reduce_range=True), made("dynamic", reduce_range=False), made("weight-only"), given]
    assert [backend.needs_wide_sums(artifact, cpu) for artifact in found] == [False, True, False, True]
    assert not backend.needs_wide_sums(given, replace(cpu, features=frozenset({"avx_vnni"})))


def test_layers_are_found_by_dotted_names() -> None:
    layers = ["encoder.0.query", "encoder.0.key", "encoder.10.query", "head", ""]
    found = backend.matching_layers
    assert found(["encoder.0"], layers, WHO) == {"encoder.0.query", "encoder.0.key"}
    assert found(["*.query", "head"], layers, WHO) == {"encoder.0.query", "encoder.10.query", "head"}
    assert found([], layers, WHO) == frozenset()
    with pytest.raises(OptionError, match=r"'exclude' names 'encoder\.1', which is no layer") as caught:
        found(["encoder.1"], layers, WHO)
    assert "encoder.0.key" in caught.value.remedy
    with pytest.raises(OptionError, match="the file names no layers"):
        found(["head"], ["", ""], WHO)


def test_what_exporters_wrap_a_model_in_is_no_part_of_its_names() -> None:
    paths = ["module.module.encoder.0", "module.module", "module", ""]
    assert list(backend.unwrapped(paths, is_decoder=True).values()) == ["encoder.0", "", "", ""]
    assert backend.unwrapped(paths[:1]) == {"module.module.encoder.0": "module.encoder.0"}
    assert backend.unwrapped(["module.a", "modules.b"]) == {"module.a": "module.a", "modules.b": "modules.b"}


def test_what_was_quantized_says_so(tmp_path: Path) -> None:
    config = QuantizeConfig(scheme="dynamic", weights="uint8")
    asked = quantize(config, output=tmp_path)
    made = backend.quantized(asked, ["a", "b"], tool="acme", version="1", chosen={"layers": 3}, format="onnx")
    assert (made.path, made.files, made.precision, made.format) == (tmp_path, ("a", "b"), "int8", "onnx")
    (step,) = made.steps
    assert (step.hook, step.backend, step.tool, step.version) == ("quantize", "acme", "acme", "1")
    assert step.options == {"config": config.to_dict(), "layers": 3}
