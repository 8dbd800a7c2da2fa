"""Targets that run on another machine: built, checked as far as this one can, saved, and honest when called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import optimum_core
from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import OptionError, UnavailableError, VerificationError
from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Artifact, QuantizeConfig, Session, SessionRequest

Tiny = Callable[[str], Any]


def _absent() -> list[str]:
    """Devices that engines are built for and that are not here."""
    return [offer.device for offer in manager().support("trt", detect()).offers if offer.proof == "none"]


needs_engines = pytest.mark.skipif(
    "trt" not in manager().names() or not _absent(), reason="no engine can be built here"
)


def _evaluated(backend: str) -> bool:
    return any(offer.proof == "graph" for offer in manager().support(backend, detect()).offers)


@pytest.fixture(scope="module")
def engine(tiny: Tiny) -> AcceleratedModel:
    return accelerate(tiny("bert"), target="trt:sm_89")


@needs_engines
def test_it_is_checked_at_graph_level_and_says_so(engine: AcceleratedModel) -> None:
    manifest, report = engine.manifest, engine.report
    assert report is not None and report.chosen is not None and manifest.fidelity is not None
    assert (manifest.backend, manifest.device, manifest.format) == ("trt", "sm_89", "tensorrt-engine")
    assert manifest.verified and manifest.fidelity.level == "graph"
    assert len({result.case for result in manifest.fidelity.results}) > 5
    assert "not run on the device" in report.chosen.reason
    assert not report.chosen.measurements
    assert "verified at graph level" in repr(engine)


@needs_engines
def test_a_call_says_why_it_does_not_run_here(engine: AcceleratedModel) -> None:
    with pytest.raises(UnavailableError, match="GPU") as caught:
        engine(input_ids=np.array([[5, 6, 7]]))
    assert "optimum_core.load" in caught.value.remedy


@needs_engines
def test_it_is_saved_and_opened_and_still_does_not_run(engine: AcceleratedModel, tmp_path: Path) -> None:
    engine.save_pretrained(tmp_path / "out")
    again = optimum_core.load(tmp_path / "out")
    assert again.manifest.steps[-1].backend == "trt"
    with pytest.raises(UnavailableError, match="sm_89"):
        again(input_ids=np.array([[5, 6, 7]]))


@needs_engines
def test_one_of_several_absent_devices_is_to_be_named(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="builds for several") as caught:
        accelerate(tiny("bert"), target="trt")
    assert "trt:sm_89" in caught.value.remedy


@needs_engines
def test_a_wrong_graph_is_not_returned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plugins = manager()
    load = type(plugins).load_session

    class Off:
        """A session whose outputs are shifted."""

        def __init__(self, session: Session) -> None:
            self.session = session
            self.backend, self.device = session.backend, session.device
            self.inputs, self.outputs = session.inputs, session.outputs

        def close(self) -> None:
            self.session.close()

    def shifted(self: Any, request: SessionRequest) -> Any:
        return Off(load(self, request)) if request.artifact.format == "onnx" else load(self, request)

    def binder(self: Any, session: Any) -> Any:
        run = bind(self, getattr(session, "session", session))
        if not isinstance(session, Off):
            return run
        return lambda inputs: {name: np.asarray(value) + 1 for name, value in run(inputs).items()}

    bind = type(plugins).binder
    monkeypatch.setattr(type(plugins), "load_session", shifted)
    monkeypatch.setattr(type(plugins), "binder", binder)
    with pytest.raises(VerificationError, match="as far as this machine can tell"):
        accelerate(Large().eval(), target="trt:sm_89", cache_dir=tmp_path, sample_inputs={"x": torch.randn(3, 8)})


@needs_engines
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_are_compared_as_the_compiler_reads_them(tiny: Tiny, precision: str) -> None:
    fast = accelerate(tiny("bert"), target="trt:sm_89", precision=precision)
    assert fast.report is not None and fast.report.chosen is not None and fast.manifest.fidelity is not None
    assert "the onnx that it is compiled from, run by onnx" in fast.report.chosen.reason
    least = {"fp16": 1e-4, "bf16": 1e-3}[precision]
    assert max(result.relative_error for result in fast.manifest.fidelity.results) > least, "it was rounded"
    assert fast.manifest.precision == precision


class Large(torch.nn.Module):
    """Its sums are beyond what fp16 holds, and small again where they come out."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        large: torch.Tensor = self.head(x * 3e4).square().sqrt()
        return large / 3e4


@needs_engines
def test_a_model_that_does_not_stand_16_bits_is_not_returned() -> None:
    torch.manual_seed(0)
    model, x = Large().eval(), {"x": torch.randn(3, 8) * 4}
    with pytest.raises(VerificationError, match=r"trt sm_89, fp16: .*NaN or infinity where eager has none") as caught:
        accelerate(model, target="trt:sm_89", precision="fp16", sample_inputs=x)
    assert "leave out precision='fp16'" in caught.value.remedy
    assert accelerate(model, target="trt:sm_89", precision="bf16", sample_inputs=x).manifest.verified


@needs_engines
def test_of_a_compiler_that_hides_what_it_read_the_step_before_is_compared(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    optimize = type(manager()).optimize
    monkeypatch.setattr(
        type(manager()), "optimize", lambda self, request: replace(optimize(self, request), compiled_from=None)
    )
    fast = accelerate(tiny("bert"), target="trt:sm_89", precision="fp16", cache_dir=tmp_path)
    assert fast.report is not None and fast.report.chosen is not None
    assert "the onnx that goes into it, in fp32, run by" in fast.report.chosen.reason


@needs_engines
def test_what_is_compiled_from_is_not_kept(engine: AcceleratedModel, tmp_path: Path) -> None:
    engine.save_pretrained(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.onnx"))


def test_onnx_itself_is_written_and_checked_and_not_run(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("bert")
    fast = accelerate(model, target="onnx")
    assert (fast.manifest.format, fast.manifest.precision) == ("onnx", "fp32")
    assert fast.manifest.fidelity is not None and fast.manifest.fidelity.level == "graph"
    with pytest.raises(UnavailableError, match="no runtime for it"):
        fast(input_ids=np.array([[5, 6, 7]]))
    fast.save_pretrained(tmp_path / "out")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    ids = np.array([[5, 6, 7, 8]])
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (logits,) = session.run(["logits"], {item.name: given[item.name] for item in session.get_inputs()})
    with torch.no_grad():
        want = model(torch.as_tensor(ids)).logits.numpy()
    assert np.abs(logits - want).max() < 1e-4 * np.abs(want).max()


def test_onnx_in_16_bits_is_not_to_be_had(tiny: Tiny) -> None:
    with pytest.raises(UnavailableError, match="it computes in fp32, and not in fp16"):
        accelerate(tiny("bert"), target="onnx", precision="fp16")


@needs_engines
def test_a_quantized_engine_takes_what_another_backend_quantized(tiny: Tiny, without_inc: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [{"input_ids": rng.integers(5, 119, size=12)} for _ in range(160)]
    with without_inc():
        fast = accelerate(tiny("bert"), target="trt:sm_89", quantize="tensorrt", calibration=rows)
    hooks = [(step.hook, step.backend) for step in fast.manifest.steps]
    assert fast.manifest.quantized == "static-int8"
    assert [hook for hook, _ in hooks] == ["export", "quantize", "optimize"]
    assert hooks[1][1] != "trt"
    assert isinstance(fast.manifest.artifact(fast.directory), Artifact)


@needs_engines
def test_an_engine_of_four_bits_takes_them_in_the_form_that_it_reads(tiny: Tiny) -> None:
    fast = accelerate(tiny("bert"), target="trt:sm_89", quantize="int4")
    quantized = next(step for step in fast.manifest.steps if step.hook == "quantize")
    assert fast.manifest.quantized == "weight-only-int4"
    assert (quantized.options["config"]["form"], quantized.options["config"]["symmetric"]) == ("qdq", True)
    assert fast.manifest.fidelity is not None and fast.manifest.fidelity.passed
    assert fast.report is not None and fast.report.chosen is not None and "run by onnx" in fast.report.chosen.reason


ROWS = [{"input_ids": np.random.default_rng(seed).integers(5, 119, size=12)} for seed in range(40)]


@needs_engines
@pytest.mark.parametrize(
    ("wish", "activations"),
    [("fp8", "fp8"), ("int8", "int8"), (QuantizeConfig(activations="int8", symmetric=True), "int8")],
    ids=["fp8", "int8", "stated"],
)
def test_an_engine_of_8_bits_has_the_numbers_of_its_gpu(
    tiny: Tiny, wish: Any, activations: str, without_inc: Any
) -> None:
    """8-bit floats, and integers with signed activations, without a word about them; all of them in full range."""
    with without_inc():
        fast = accelerate(tiny("bert"), target="trt:sm_89", quantize=wish, calibration=ROWS)
    manifest = fast.manifest
    quantized = next(step for step in manifest.steps if step.hook == "quantize")
    assert (manifest.quantized, quantized.options["activations"]) == (f"static-{activations}", activations)
    assert quantized.options["config"]["reduce_range"] is False, "this processor's overflow is none of the GPU's"
    assert fast.report is not None and fast.report.chosen is not None
    assert "run by onnx" in fast.report.chosen.reason, "nor is it to spoil the comparison"
    assert manifest.fidelity is not None and manifest.fidelity.passed and manifest.fidelity.level == "graph"


@needs_engines
def test_ranges_are_not_found_on_nothing(tiny: Tiny) -> None:
    with pytest.raises(OptionError, match="static-fp8 finds ranges on typical inputs"):
        accelerate(tiny("bert"), target="trt:sm_89", quantize="fp8")


@needs_engines
@pytest.mark.parametrize("target", ["auto", "trt:sm_86"])
def test_what_has_no_8_bit_floats_says_so(tiny: Tiny, target: str) -> None:
    with pytest.raises(UnavailableError, match="static-fp8"):
        accelerate(tiny("bert"), target=target, quantize="fp8", calibration=ROWS)


@pytest.mark.skipif(
    "coreml" not in manager().names() or not _evaluated("coreml"), reason="no program is evaluated here"
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_program_has_the_arithmetic_that_was_asked_for(tiny: Tiny, precision: str, tmp_path: Path) -> None:
    fast = accelerate(tiny("bert"), target="coreml", quantize="int8", precision=precision)
    manifest = fast.manifest
    assert (manifest.quantized, manifest.precision) == ("weight-only-int8", precision)
    assert manifest.fidelity is not None and manifest.fidelity.passed and manifest.fidelity.level == "graph"
    fast.save_pretrained(tmp_path / "out")
    assert optimum_core.load(tmp_path / "out").manifest.precision == precision
