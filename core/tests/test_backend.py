"""The workbench of backend authors: each name does what its docstring says, and importing it costs nothing."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import backend
from optimum_core.backend import tracing
from optimum_core.errors import ExportError, InputError, OptionError, SessionError
from optimum_core.types import Artifact, ExportRequest, QuantizeConfig, QuantizeRequest, TensorSpec
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


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, optimum_core.backend; print(*{'numpy', 'torch', 'transformers', 'msgspec'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("room", [backend, tracing], ids=lambda room: room.__name__)
def test_every_name_is_explained(room: ModuleType) -> None:
    names = [name for name in room.__all__ if name != "Port"]  # an alias, which has a comment
    assert [name for name in names if not inspect.getdoc(getattr(room, name))] == []
    page = (Path(__file__).parents[2] / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
    plain = {"Port", "FlatModule", "NamedModule", "allowed", "refused"}  # met by way of the others
    assert [name for name in room.__all__ if f"`{name}`" not in page and name not in plain] == []


@pytest.mark.parametrize(
    "name",
    [
        "backend._artifacts",
        "backend._exporting",
        "backend._probing",
        "backend._quantizing",
        "backend._sessions",
        "errors",
        "models.tracing",
        "options",
        "packages",
    ],
)
def test_the_examples_are_right(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(f"optimum_core.{name}"), optionflags=doctest.IGNORE_EXCEPTION_DETAIL
    )
    assert results.failed == 0


# Probes.


def test_packages_are_told_without_importing_them() -> None:
    assert backend.present("torch") and not backend.present("no_such_package")
    assert backend.missing(["torch", "no_such_package"]) == ["no_such_package"]
    folder = backend.package_folder("optimum_core")
    assert folder is not None and (folder / "backend").is_dir()
    assert backend.package_folder("no_such_package") is None
    assert set(backend.versions(["torch", "no-such-distribution"])) == {"torch"}


def test_what_is_not_installed_is_a_limitation() -> None:
    assert backend.limits("run", ["torch"], "pip install torch") == []
    (found,) = backend.limits("run", ["torch", "acme", "acme_tools"], "pip install acme", hook="quantize")
    assert (found.reason, found.remedy, found.hook) == (
        "acme, acme_tools are not installed",
        "pip install acme",
        "quantize",
    )


# Errors of other libraries.


def test_a_foreign_error_becomes_ours_with_its_class_and_itself_as_cause() -> None:
    with (
        pytest.raises(ExportError) as caught,
        backend.foreign_errors(WHO, ExportError, "use another", doing="static-int8 failed"),
    ):
        raise KeyError("weight")
    assert caught.value.why == "static-int8 failed: KeyError: 'weight'"
    assert (caught.value.who, caught.value.remedy) == (WHO, "use another")
    assert isinstance(caught.value.__cause__, KeyError)


def test_errors_of_ours_and_those_not_asked_for_pass() -> None:
    ours = OptionError("a", "b", "c")
    with pytest.raises(OptionError) as caught, backend.foreign_errors(WHO, ExportError, ""):
        raise ours
    assert caught.value is ours
    with pytest.raises(KeyError), backend.foreign_errors(WHO, ExportError, "", catching=ValueError):
        raise KeyError
    with pytest.raises(KeyboardInterrupt), backend.foreign_errors(WHO, ExportError, ""):
        raise KeyboardInterrupt


def test_a_printed_graph_is_cut() -> None:
    assert backend.brief(ValueError("one\n\n  two  \n")) == "one two"
    assert len(backend.brief(ValueError("node\n" * 1000))) == 500


# Exporting.


def test_an_export_is_checked_before_it_begins(request_for: Callable[..., ExportRequest]) -> None:
    asked = request_for(torch.nn.Linear(8, 2))
    check = backend.check_export
    assert check(asked, "acme-ir", routes=("trace", "export")) == "trace"
    assert check(replace(asked, route="export"), "acme-ir", routes=("trace", "export")) == "export"
    assert check(asked, "acme-ir") == ""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"route": "magic"}, "unknown route 'magic'"),
        ({"format": "onnx"}, "it does not export 'onnx'"),
        ({"precision": "fp16"}, "it does not export in 'fp16'"),
    ]
    for changes, why in wrong:
        with pytest.raises(OptionError) as caught:
            check(replace(asked, **changes), "acme-ir", routes=("trace",), precisions=("fp32",))
        assert (caught.value.who, caught.value.why) == (WHO, why)


def test_what_was_exported_says_so(request_for: Callable[..., ExportRequest]) -> None:
    asked = request_for(torch.nn.Linear(8, 2))
    made = backend.exported(asked, ["model"], tool="acme", version="1", chosen={"route": "trace"}, precision="fp16")
    assert (made.format, made.path, made.files) == ("acme-ir", asked.output, ("model",))
    assert (made.inputs, made.outputs, made.precision) == (asked.inputs, asked.outputs, "fp16")
    (step,) = made.steps
    assert (step.hook, step.backend, step.version, step.options) == ("export", "acme", "1", {"route": "trace"})


class Sum(torch.nn.Module):
    """Takes its inputs in another order than they are asked for."""

    def forward(self, right: torch.Tensor, left: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"further": right, "difference": left - right}


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., ExportRequest]:
    names = ("left", "right")
    inputs = tuple(TensorSpec(name=name, dtype="float32", shape=("batch", 2)) for name in names)

    def made(module: Any) -> ExportRequest:
        class Source:
            name = "sum"

            def module(self) -> Any:
                return module

        source: Any = Source()
        return ExportRequest(
            backend="acme",
            source=source,
            task="none",
            format="acme-ir",
            precision="fp32",
            samples={"right": np.ones((2, 2), np.float32), "left": np.full((2, 2), 3, np.float32)},
            inputs=inputs,
            outputs=(replace(inputs[0], name="difference"),),
            output=tmp_path,
        )

    return made


def test_a_model_gets_a_plain_face(request_for: Callable[..., ExportRequest]) -> None:
    module = Sum()
    asked = request_for(module)
    samples = tracing.sample_tensors(asked)
    assert list(samples) == ["left", "right"]
    (flat,) = tracing.flat_module(module, asked)(*samples.values())
    named = tracing.named_module(module, asked)
    assert torch.equal(flat, torch.full((2, 2), 2.0))
    assert torch.equal(named(**samples)["difference"], flat)
    assert list(named(**samples)) == ["difference"] and list(inspect.signature(named).parameters) == ["left", "right"]


def test_a_program_varies_where_the_specs_say(request_for: Callable[..., ExportRequest]) -> None:
    module = Sum()
    asked = request_for(module)
    with tracing.ready_to_trace(module):
        samples = list(tracing.sample_tensors(asked).values())
        program = tracing.exported_program(tracing.flat_module(module, asked), samples, asked.inputs)
    (found,) = program.module()(torch.ones(5, 2), torch.zeros(5, 2))
    assert found.shape == (5, 2)


def test_a_backend_asks_its_own_hooks(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    asked = backend.export_request(tiny("bert"), "acme", "acme-ir", tmp_path)
    assert (asked.backend, asked.format, asked.precision, asked.output) == ("acme", "acme-ir", "fp32", tmp_path)
    assert {spec.name for spec in asked.inputs} >= {"input_ids", "attention_mask"}
    assert asked.samples.keys() == {spec.name for spec in asked.inputs}


# Quantizing.


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


def test_what_was_quantized_says_so(tmp_path: Path) -> None:
    config = QuantizeConfig(scheme="dynamic", weights="uint8")
    asked = quantize(config, output=tmp_path)
    made = backend.quantized(asked, ["a", "b"], tool="acme", version="1", chosen={"layers": 3}, format="onnx")
    assert (made.path, made.files, made.precision, made.format) == (tmp_path, ("a", "b"), "int8", "onnx")
    (step,) = made.steps
    assert (step.hook, step.backend, step.tool, step.version) == ("quantize", "acme", "acme", "1")
    assert step.options == {"config": config.to_dict(), "layers": 3}


# Files.


def test_the_file_to_open_first_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    for name in ("model", "weights"):
        (aside / name).write_text(name)
    moved: list[str] = []
    rename = Path.replace

    def recorded(path: Path, target: Path) -> Path:
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", recorded)
    backend.move_into(aside, tmp_path, ["model", "weights"])
    assert moved == ["weights", "model"] and (tmp_path / "model").read_text() == "model"


@pytest.mark.parametrize(
    ("inputs", "outputs", "problems"),
    [
        ([("input_ids", "int64", (None, 8))], [("logits", "float32", (None, 2))], []),
        ([("input_ids", "int64", ("N", None))], [("logits", "float32", None), ("more", "int8", None)], []),
        ([("input_ids", "int64", None)], [("logits", "float32", (4, 2))], []),
        ([], [("logits", "float32", None)], ["the file has no input 'input_ids'"]),
        (
            [("input_ids", "int32", None)],
            [("logits", "float32", (4, 3))],
            [
                "input 'input_ids' is int32 in the file, not int64",
                "output 'logits' is [4, 3] in the file, not ['batch', 2]",
            ],
        ),
        (
            [("input_ids", "int64", (1, 8)), ("mask", "int64", None)],
            [("logits", "float32", (2,))],
            [
                "input 'input_ids' is [1, 8] in the file, not ['batch', 8]",
                "the file also takes input 'mask'",
                "output 'logits' is [2] in the file, not ['batch', 2]",
            ],
        ),
    ],
)
def test_a_file_may_be_more_general_than_its_specs(
    inputs: list[backend.Port], outputs: list[backend.Port], problems: list[str]
) -> None:
    assert backend.interface_problems(inputs, outputs, ([IDS], [LOGITS]), "file") == problems


# Sessions.


def test_calls_go_to_the_backends_own_sessions() -> None:
    class Own:
        backend, device, inputs, outputs = "acme", "cpu", (IDS,), (LOGITS,)

        def run(self, inputs: Any) -> Any:
            return {"logits": inputs["input_ids"]}

        def close(self) -> None: ...

    given = np.ones((1, 8))
    found = backend.run_own("acme", Own(), {"input_ids": given})
    assert found is not None and found["logits"] is given
    assert backend.run_own("other", Own(), {"input_ids": given}) is None


def test_inputs_are_those_of_the_model() -> None:
    backend.check_names(WHO, ["a", "b"], {"b": 1, "a": 2})
    for inputs, told in (
        ({"a": 1}, "missing: b"),
        ({"a": 1, "b": 2, "c": 3}, "unknown: c"),
        ({"a": 1, "c": 3}, "missing: b; unknown: c"),
    ):
        with pytest.raises(InputError) as caught:
            backend.check_names(WHO, ["a", "b"], inputs)
        assert (caught.value.why, caught.value.remedy) == (f"wrong inputs ({told})", "pass exactly: a, b")


def test_a_value_that_is_no_array_is_refused() -> None:
    assert backend.read_input(WHO, "x", torch.ones(2), np.from_dlpack).shape == (2,)
    with pytest.raises(InputError, match="input 'x' is a str that cannot be read without a copy") as caught:
        backend.read_input(WHO, "x", "text", np.from_dlpack, "on the GPU")
    assert caught.value.remedy == "pass a numpy array, or a detached tensor on the GPU"


def test_a_closed_session_says_what_to_do() -> None:
    assert isinstance(backend.closed(WHO), SessionError) and "closed" in backend.closed(WHO).why
    assert backend.described([IDS, LOGITS]) == "input_ids: int64['batch', 8], logits: float32['batch', 2]"


def test_the_machine_and_the_hooks_are_at_hand() -> None:
    assert isinstance(backend.detect(), Hardware)
    assert {info.name for info in backend.manager().infos()} >= {"torch", "onnx"}
