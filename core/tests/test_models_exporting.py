"""Both ways to write ONNX: right at shapes that were never traced, silent, and without a trace on the user's model."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch

from optimum_core.errors import ExportError
from optimum_core.models.backends.onnx_files import plugin as onnx_plugin
from optimum_core.models.eager.calls import FlatModule, call, eager_outputs, fixed_arguments
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.exporting import ROUTES, torchscript
from optimum_core.models.exporting.export_speed import remembered_translations
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.exporting.weight_files import add_weights
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.types import Artifact, ExportRequest
from optimum_core.verify import compare, tolerance_of
from optimum_core.verify.reference import reference_cases

Described = Callable[[str], tuple[Any, ModelSignature]]


def _request(
    module: Any, signature: ModelSignature, output: Path, route: str, opset: int | None = None
) -> ExportRequest:
    return export_of(onnx_plugin.NAME, "onnx", MemorySource(module), signature, output, route=route, opset=opset)


def _export(module: Any, signature: ModelSignature, output: Path, route: str, opset: int | None = None) -> Artifact:
    made = onnx_plugin.export(_request(module, signature, output, route, opset))
    assert isinstance(made, Artifact)
    return made


def _session(artifact: Artifact) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(artifact.main_file), options, providers=["CPUExecutionProvider"])


def _state(model: Any) -> dict[str, Any]:
    return {
        "config": copy.deepcopy(model.config.to_dict()),
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "training": [part.training for part in model.modules()],
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
        "forwards": [part.forward.__func__ for part in model.modules()],
    }


def _models_imported() -> set[str]:
    return {name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name}


@pytest.mark.parametrize("route", ROUTES)
def test_names_axes_and_numbers_at_unseen_shapes(
    route: str, described: Described, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, signature = described("bert")
    case = Case(name="before", lengths={"batch": 3, "sequence": 17}, seed=9)
    before, outputs = _state(module), eager_outputs(module, signature.draw(case))
    imported = _models_imported()
    artifact = _export(module, signature, tmp_path, route)
    assert _models_imported() == imported, "transformers has patches for 40 models"
    assert tuple(capfd.readouterr()) == ("", "")

    assert artifact.main_file == tmp_path / "model.onnx"
    assert set(artifact.files) == {path.name for path in tmp_path.iterdir()}
    assert (artifact.inputs, artifact.outputs) == (signature.inputs, signature.outputs)
    assert artifact.steps[0].options["route"] == route
    onnx.checker.check_model(str(artifact.main_file))

    session = _session(artifact)
    for values, specs in ((session.get_inputs(), signature.inputs), (session.get_outputs(), signature.outputs)):
        assert [(value.name, value.shape) for value in values] == [(spec.name, list(spec.shape)) for spec in specs]
    for check in reference_cases(module, signature):
        (have,) = session.run(None, dict(check.inputs))
        result = compare(check.name, {}, "logits", check.outputs["logits"], have, tolerance_of("fp32"))
        assert result.passed, (check.name, result.problem)

    after = _state(module)
    for name, tensor in before.pop("weights").items():
        assert torch.equal(tensor, after["weights"][name])
    del after["weights"]
    assert after == before
    assert np.array_equal(eager_outputs(module, signature.draw(case))["logits"], outputs["logits"])


def test_the_table_of_translations_is_made_once_and_never_shared() -> None:
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    registry: Any = ONNXRegistry
    before = registry.__dict__["from_torchlib"]
    with remembered_translations():
        one = registry.from_torchlib(opset_version=18)
        kept = {target: list(found) for target, found in one.functions.items()}
        one.functions["aten::relu"].clear()  # as an export does with translations of its own
        del one.functions["aten::add.Tensor"]
        other = registry.from_torchlib(opset_version=18)
    assert other.functions == kept and other.opset_version == 18
    assert other.functions["aten::relu"][0] is kept["aten::relu"][0], "it was made anew"
    assert registry.__dict__["from_torchlib"] is before


def test_the_opset_is_what_the_runtime_accepts(described: Described, tmp_path: Path) -> None:
    module, signature = described("vit")
    artifact = _export(module, signature, tmp_path, "torchscript", opset=17)
    (opset,) = [item.version for item in onnx.load(str(artifact.main_file)).opset_import if item.domain == ""]
    assert opset == 17
    assert artifact.steps[0].options["opset"] == 17


def test_a_request_to_somebody_else_is_left_alone(described: Described, tmp_path: Path) -> None:
    module, signature = described("vit")
    request = _request(module, signature, tmp_path, "torchscript")
    assert onnx_plugin.export(dataclasses.replace(request, backend="another")) is None
    assert not any(tmp_path.iterdir())


def test_weights_of_a_large_model_lie_beside_its_graph(
    described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, signature = described("bert")
    made = {}
    for name, limit in (("within", 2**31), ("beside", 1000)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(torchscript, "_PROTOBUF_LIMIT", limit)
        made[name] = _export(module, signature, tmp_path / name, "torchscript")
    assert made["beside"].files == ("model.onnx", "model.onnx.data")
    graph = onnx.load(made["beside"].main_file, load_external_data=False).graph
    assert all(len(tensor.raw_data) < 1024 for tensor in graph.initializer)
    inputs = dict(signature.draw(Case(name="other", lengths={"batch": 3, "sequence": 9})))
    wanted, found = (_session(made[name]).run(None, inputs) for name in ("within", "beside"))
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def _added(tmp_path: Path, nodes: list[onnx.NodeProto], outputs: list[str], weight: torch.Tensor) -> Path:
    """Write a graph over `x` that reads a weight `w` as an input, and add the weight."""
    number = onnx.TensorProto.BFLOAT16 if weight.dtype == torch.bfloat16 else onnx.TensorProto.FLOAT
    infos = {name: onnx.helper.make_tensor_value_info(name, number, None) for name in ("x", "w", *outputs)}
    graph = onnx.helper.make_graph(nodes, "graph", [infos["x"], infos["w"]], [infos[name] for name in outputs])
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    add_weights(path, {"w": weight})
    return path


def test_a_transposed_weight_that_is_an_output_or_read_in_a_branch_is_kept(tmp_path: Path) -> None:
    make = onnx.helper.make_node
    info = onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)
    branches = {
        f"{name}_branch": onnx.helper.make_graph([make("MatMul", ["x", "side"], ["z"])], name, [], [info])
        for name in ("then", "else")
    }
    nodes = [
        make("Transpose", ["w"], ["turned"], perm=[1, 0]),
        make("Transpose", ["w"], ["side"], perm=[1, 0]),
        make("Constant", [], ["yes"], value=onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])),
        make("If", ["yes"], ["y"], **branches),
    ]
    weight = torch.randn(20, 20)
    path = _added(tmp_path, nodes, ["turned", "y"], weight)
    x = torch.randn(3, 20)
    turned, y = onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})
    np.testing.assert_array_equal(turned, weight.T.numpy())
    np.testing.assert_allclose(y, (x @ weight.T).numpy(), atol=1e-5)


@pytest.mark.parametrize("size", [4, 40])
def test_weights_in_bfloat16_are_added(size: int, tmp_path: Path) -> None:
    weight = torch.randn(size, size).bfloat16()
    path = _added(tmp_path, [onnx.helper.make_node("Add", ["x", "w"], ["y"])], ["y"], weight)
    (read,) = onnx.load(path).graph.initializer
    assert read.data_type == onnx.TensorProto.BFLOAT16
    assert read.raw_data == weight.view(torch.int16).numpy().tobytes()


def test_where_weights_lie_does_not_depend_on_the_memory_that_is_free(
    described: Described, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        available = 0

    monkeypatch.setattr(psutil, "virtual_memory", Busy)
    module, signature = described("bert")
    assert _export(module, signature, tmp_path, "torchscript").files == ("model.onnx",)


class _Broken(torch.nn.Module):
    """Runs eagerly; a value read into Python stops one way, an operation without an ONNX form the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x * int(x.abs().sum().item() > -1)
        eigenvalues: torch.Tensor = torch.linalg.eigvals(values @ values.transpose(1, 2))
        return eigenvalues.real


@pytest.mark.parametrize("route", ROUTES)
def test_a_failed_export_is_one_quiet_error(route: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    module = _Broken().eval()
    signature = describe(module, name="broken", samples={"x": torch.rand(2, 3, 3)})
    with pytest.raises(ExportError) as caught:
        _export(module, signature, tmp_path, route)
    assert tuple(capfd.readouterr()) == ("", "")
    assert caught.value.__cause__ is not None
    assert "route" in caught.value.remedy


def _mixture() -> Any:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return MixtralForCausalLM(config).eval()


def test_experts_are_given_back_as_they_were() -> None:
    model = _mixture()
    before = model.get_experts_implementation()
    with export_ready(model):
        assert set(model.get_experts_implementation().values()) == {"batched_mm"}
    assert model.get_experts_implementation() == before
    with pytest.raises(RuntimeError, match="stop"), export_ready(model):
        raise RuntimeError("stop")
    assert model.get_experts_implementation() == before


def test_a_flat_face_computes_what_the_model_does(described: Described) -> None:
    module, signature = described("clip")
    inputs = signature.draw(Case(name="any"))
    names = [spec.name for spec in signature.outputs]
    flat = FlatModule(module, list(inputs), names[::-1])
    with torch.no_grad():
        outputs = flat(*map(torch.as_tensor, inputs.values()))
    expected = flatten(call(module, inputs))
    assert all(torch.equal(have, expected[name]) for name, have in zip(names[::-1], outputs, strict=True))


def test_a_mixture_of_experts_is_unchanged_by_its_export(tmp_path: Path) -> None:
    model = _mixture()
    signature = describe(model, name="mixture")
    inputs = signature.draw(Case(name="any", lengths={"batch": 3, "sequence": 8}, seed=5))
    before, experts = eager_outputs(model, inputs), model.get_experts_implementation()
    artifact = _export(model, signature, tmp_path, "torchscript")
    assert model.get_experts_implementation() == experts
    after = eager_outputs(model, inputs)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    have = dict(zip(before, _session(artifact).run(list(before), inputs), strict=True))
    assert compare("x", {}, "logits", before["logits"], have["logits"], tolerance_of("fp32")).passed


class _Repeating(torch.nn.Module):
    """Repeats along an axis counted from the end, beside other places that say -1."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        repeated = x.repeat_interleave(2, dim=-1) + torch.repeat_interleave(x, 2, -1)
        halves = torch.stack((repeated[..., ::2], repeated[..., 1::2]), dim=-1)
        return {"y": halves.flatten(-2).view(*x.shape[:2], -1, 4)}


def test_an_axis_counted_from_the_end_changes_no_other_number(tmp_path: Path) -> None:
    module = _Repeating().eval()
    signature = describe(module, name="repeating", samples={"x": torch.randn(2, 3, 4)})
    artifact = _export(module, signature, tmp_path, "torchscript")
    given = {"x": np.random.default_rng(1).standard_normal((3, 5, 4)).astype(np.float32)}
    (have,) = _session(artifact).run(["y"], given)
    assert np.allclose(have, module(torch.as_tensor(given["x"]))["y"].numpy(), atol=1e-6)


def test_only_arguments_that_a_forward_takes_are_fixed(tiny: Callable[[str], Any]) -> None:
    assert fixed_arguments(tiny("gpt2")) == {"use_cache": False, "return_dict": True}
    assert fixed_arguments(torch.nn.Linear(1, 1)) == {}
    assert list(eager_outputs(tiny("gpt2"), {"input_ids": np.ones((1, 3), dtype=np.int64)})) == ["logits"]


class _Narrow(torch.nn.Module):
    """Has a configuration, and a `forward` that takes tensors alone."""

    config = object()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # at its first import
def test_a_compiled_module_is_called_as_its_original_is(tiny: Callable[[str], Any]) -> None:
    for module in (_Narrow(), tiny("gpt2")):
        compiled: Any = torch.compile(module)
        assert fixed_arguments(compiled) == fixed_arguments(module)


def test_the_references_are_arrays_of_their_own() -> None:
    module = torch.nn.Identity()
    x = np.ones((2, 2), dtype=np.float32)
    output = eager_outputs(module, {"input": x})["output"]
    x[:] = 7
    assert (output == 1).all()


class Ignoring(torch.nn.Module):
    """Takes an input that it does not use."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * 2


def test_an_input_that_is_ignored_is_not_said_to_be_read(tmp_path: Path) -> None:
    module = Ignoring().eval()
    signature = describe(module, name="ignoring", samples={"x": torch.randn(2, 3), "y": torch.randn(2, 3)})
    with pytest.raises(
        ExportError, match=r"'y' is not in the graph: the model ignores it, or(.|\n)*default \(y=None\)"
    ):
        _export(module, signature, tmp_path, "torchscript")


class Counting(torch.nn.Module):
    """`torch.export` follows no number that is read."""

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return x[:, : int(lengths.max())]


def test_an_error_names_the_line_of_the_model(tmp_path: Path) -> None:
    module = Counting().eval()
    samples = {"x": torch.randn(2, 5), "lengths": torch.tensor([5, 2])}
    signature = describe(module, name="counting", samples=samples)
    with pytest.raises(ExportError, match=Path(__file__).name) as raised:
        _export(module, signature, tmp_path, "dynamo")
    assert "rewriting" not in raised.value.why


class Hypotenuse(torch.nn.Module):
    """ONNX has no such operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.hypot(x, x + 1)


def test_an_error_names_the_operator_that_has_no_form_in_onnx(tmp_path: Path) -> None:
    signature = describe(Hypotenuse().eval(), name="hypotenuse", samples={"x": torch.randn(2, 5)})
    with pytest.raises(ExportError, match=r"No ONNX function found for .*hypot"):
        _export(Hypotenuse().eval(), signature, tmp_path, "dynamo")
