# mypy: disable-error-code="no-untyped-call, var-annotated"
"""Models in other forms: wrappers are taken off, everything else is named, and before weights are read."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from optimum_core.errors import SourceError
from optimum_core.models import fingerprint
from optimum_core.models.sources.files import refuse_pointers
from optimum_core.models.sources.source import open_source

Tiny = Callable[[str], Any]


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*args: Any) -> None:
        raise AssertionError("the weights were read before the form was refused")

    monkeypatch.setattr(fingerprint, "of_module", read)
    monkeypatch.setattr(fingerprint, "of_file", read)


def _foreign(module: str, name: str, *bases: type, **more: Any) -> type:
    """A class as another library would define it; these libraries are not installed for the tests."""
    return type(name, bases, {"__module__": module, **more})


@pytest.mark.filterwarnings("ignore")
def test_wrappers_that_compute_the_same_are_taken_off(tiny: Tiny) -> None:
    model = tiny("bert")
    for wrapped in (torch.compile(model), torch.nn.DataParallel(model), torch.compile(torch.nn.DataParallel(model))):
        assert open_source(wrapped).module().config is not None
        assert open_source(wrapped).name == open_source(model).name


def _on_meta(model: torch.nn.Module) -> torch.nn.Module:
    return copy.deepcopy(model).to("meta")


def _partly_on_meta(model: torch.nn.Module) -> torch.nn.Module:
    offloaded = copy.deepcopy(model)
    offloaded.classifier = offloaded.classifier.to("meta")
    return offloaded


def _dynamic(model: torch.nn.Module) -> torch.nn.Module:
    quantized: torch.nn.Module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear})
    return quantized


def _traced(model: torch.nn.Module) -> Any:
    return torch.jit.trace(copy.deepcopy(model), (torch.tensor([[5, 6, 7]]),), strict=False)


def _compiled_forward(model: torch.nn.Module) -> torch.nn.Module:
    changed = copy.copy(model)
    changed.__dict__["forward"] = torch.compile(changed.forward)
    return changed


def _compiled_part(model: torch.nn.Module) -> torch.nn.Module:
    changed = copy.deepcopy(model)
    compiled: Any = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    changed.add_module("extra", compiled)
    return changed


def _with_layer(cls: type, model: torch.nn.Module) -> torch.nn.Module:
    changed = copy.deepcopy(model)
    changed.add_module("extra", cls())
    return changed


def _with_tensor(module: str, name: str, model: torch.nn.Module) -> torch.nn.Module:
    changed = copy.deepcopy(model)
    weight = torch.zeros(2).as_subclass(_foreign(module, name, torch.Tensor))
    changed.register_buffer("extra", weight)
    return changed


_GPTQ = _foreign("gptqmodel.nn_modules.qlinear", "QuantLinear", torch.nn.Module)
_LORA = _foreign("peft.tuners.lora.layer", "Linear", torch.nn.Module)
_FORMS: dict[str, tuple[Any, str, str]] = {
    "meta": (_on_meta, "meta device", "from_pretrained"),
    "offloaded": (_partly_on_meta, "classifier.weight is on the meta device", "device_map"),
    "quantize_dynamic": (_dynamic, r"quantized by torch\.ao\.quantization", "before it was quantized"),
    "jit": (_traced, r"torch\.jit", "as it was before"),
    "compiled forward": (_compiled_forward, "replaced by a compiled one", "del model.forward"),
    "compiled part": (_compiled_part, "forward of extra was replaced", "model.extra = model.extra._orig_mod"),
    "gptq": (lambda model: _with_layer(_GPTQ, model), "GPTQModel.*'extra'", "before it was quantized"),
    "peft inside": (lambda model: _with_layer(_LORA, model), "adapters of PEFT", r"merge_and_unload\(\)"),
    "torchao": (lambda m: _with_tensor("torchao.q", "Int8Tensor", m), "torchao .*Int8Tensor", "before it was"),
    "bitsandbytes": (lambda m: _with_tensor("bitsandbytes.nn", "Params4bit", m), "bitsandbytes", "before it was"),
    "sharded": (lambda m: _with_tensor("torch.distributed.tensor", "DTensor", m), "several processes", "gather"),
    "own tensors": (lambda m: _with_tensor("acme", "Odd", m), r"acme\.Odd", "plain tensors"),
    "float8": (lambda m: m.to(torch.float8_e4m3fn), "float8", "before it was quantized"),
    "lazy": (lambda m: torch.nn.LazyLinear(3), "before the first call", "call the model once"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", _FORMS)
def test_a_module_that_does_not_hold_plain_weights_is_refused(form: str, tiny: Tiny) -> None:
    make, why, remedy = _FORMS[form]
    with pytest.raises(SourceError, match=why) as caught:
        open_source(make(copy.deepcopy(tiny("bert"))))
    assert any(part in caught.value.remedy for part in (remedy, remedy.replace("\\", "")))


class _Own(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, training=self.training)


@pytest.mark.parametrize("part", [torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(2), _Own()])
def test_a_part_in_training_mode_is_refused(part: torch.nn.Module) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(part)).eval()
    open_source(model)
    part.train()
    with pytest.raises(SourceError, match=rf"its part '1\.0' \({type(part).__name__}\) is in training mode") as caught:
        open_source(model)
    assert "model.eval()" in caught.value.remedy


def test_a_part_that_is_the_same_in_training_is_taken() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
    model.append(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU()))
    assert open_source(model).notes == ()


def test_a_model_in_training_mode_is_accelerated_as_in_evaluation_and_that_is_said() -> None:
    source = open_source(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)))
    assert not any(part.training for part in source.module().modules())
    assert source.notes == ("the model was in training mode; it is accelerated as it answers after model.eval()",)


def test_training_with_rounded_weights_is_no_quantized_model(tiny: Tiny) -> None:
    layer = _foreign("torchao.quantization.qat.linear", "FakeQuantizedLinear", torch.nn.Linear)
    linear = layer(2, 2)
    model = torch.nn.Sequential(linear)
    assert open_source(model).module() is not None


_OBJECTS = {
    "class": (torch.nn.Linear, "is a class", "an instance"),
    "another class": (int, "is a class", "PreTrainedModel"),
    "PeftModel": (_foreign("peft.peft_model", "PeftModel", torch.nn.Module)(), "adapters", "merge_and_unload()"),
    "SentenceTransformer": (
        _foreign("sentence_transformers.SentenceTransformer", "SentenceTransformer", torch.nn.Sequential)(),
        "no modules",
        "auto_model",
    ),
    "bag of words": (
        _foreign("sentence_transformers.x", "SentenceTransformer", torch.nn.Sequential)(torch.nn.Linear(2, 2)),
        "first module is a Linear",
        "auto_model",
    ),
    "SparseEncoder": (
        _foreign("sentence_transformers.x", "SparseEncoder", torch.nn.Sequential)(),
        "no single vector",
        "auto_model",
    ),
    "FSDP": (
        _foreign("torch.distributed.fsdp.x", "FullyShardedDataParallel", torch.nn.Module)(),
        "several processes",
        "gather",
    ),
    "pipeline": (_foreign("transformers.pipelines.base", "Pipeline")(), "is a pipeline", "pipe.model"),
    "diffusers": (_foreign("diffusers.x", "DiffusionPipeline")(), "several models", "pipe.unet"),
    "trainer": (_foreign("transformers.trainer", "Trainer")(), "trainer", "trainer.model"),
    "state_dict": (torch.nn.Linear(2, 2).state_dict(), "state_dict", "load_state_dict"),
    "function": (lambda x: x, "is a function", "torch.nn.Module"),
    "onnx": (_foreign("onnx.onnx_pb", "ModelProto")(), "ONNX model in memory", "onnx.save"),
    "session": (_foreign("onnxruntime.capi.x", "InferenceSession")(), "open already", "ONNX file"),
    "optimum": (_foreign("optimum.onnxruntime.x", "ORTModel")(), "exported already", "made from"),
    "accelerated": (
        _foreign("optimum_core.runtime.accelerated", "AcceleratedModel")(),
        "accelerated already",
        "as it is",
    ),
}


@pytest.mark.parametrize("name", _OBJECTS)
def test_what_holds_or_belongs_to_a_model_says_what_to_pass(name: str) -> None:
    given, why, remedy = _OBJECTS[name]
    with pytest.raises(SourceError, match=why) as caught:
        open_source(given)
    assert remedy in caught.value.remedy


def test_a_configuration_and_a_tokenizer_say_where_the_model_is(tiny: Tiny) -> None:
    with pytest.raises(SourceError, match="no weights"):
        open_source(tiny("bert").config)
    from transformers import WhisperFeatureExtractor

    with pytest.raises(SourceError, match="prepares a model's inputs") as caught:
        open_source(WhisperFeatureExtractor())
    assert "processor=" in caught.value.remedy


_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438\n"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 4096)
    (tmp_path / name).write_text(_LFS, encoding="utf-8")
    with pytest.raises(SourceError, match=f"{name} is a pointer of git-lfs") as caught:
        open_source(tmp_path)
    assert "git lfs pull" in caught.value.remedy


@pytest.mark.parametrize(
    ("fetched", "pointer"),
    [
        ("model.safetensors", "training_args.bin"),
        ("model.safetensors", "pytorch_model.bin"),
        ("adapter_model.safetensors", "adapter_model.bin"),
    ],
)
def test_a_pointer_to_what_is_not_read_is_no_obstacle(fetched: str, pointer: str, tmp_path: Path) -> None:
    (tmp_path / fetched).write_bytes(b"\0" * 4096)
    (tmp_path / pointer).write_text(_LFS, encoding="utf-8")
    refuse_pointers(tmp_path, "model")
    (tmp_path / fetched).write_text(_LFS, encoding="utf-8")
    with pytest.raises(SourceError, match=fetched):
        refuse_pointers(tmp_path, "model")


def test_weights_of_an_adapter_stand_for_none_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\0" * 4096)
    (tmp_path / "pytorch_model.bin").write_text(_LFS, encoding="utf-8")
    with pytest.raises(SourceError, match="pytorch_model"):
        refuse_pointers(tmp_path, "model")


@pytest.mark.parametrize(
    ("name", "why", "remedy"),
    [
        ("a.gguf", "no readable GGUF", "save_pretrained"),
        ("a.ggml", "GGML", "save_pretrained"),
        ("openvino_model.xml", "OpenVINO IR", "save_pretrained"),
        ("model.safetensors", "weights alone", "config.json"),
        ("pytorch_model.bin", "weights alone", "config.json"),
        ("model.pt", r"torch\.save", "pass the model"),
        ("model.plan", "engine of TensorRT", "ONNX file"),
        ("model.pt2", r"torch\.export", "save_pretrained"),
        ("weights.h5", "Keras", "PyTorch"),
        ("notes.txt", "is a file", "check the path"),
    ],
)
def test_a_file_is_named_by_its_kind(name: str, why: str, remedy: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\0" * 2048)
    with pytest.raises(SourceError, match=why) as caught:
        open_source(tmp_path / name)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("name", ["model.onnx", "model.gguf"])
def test_a_pointer_in_place_of_the_only_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(_LFS, encoding="utf-8")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(SourceError, match=f"{name} is a pointer of git-lfs"):
            open_source(path)


@pytest.mark.parametrize(
    ("files", "why", "remedy"),
    [
        (("config.json", "model_a.onnx", "model_b.onnx"), "2 ONNX files", "model_a.onnx'"),
        (("config.json", "encoder_model.onnx", "decoder_model.onnx"), "keeps no cache", "checkpoint"),
        (("config.json", "model.xml", "model.bin"), "OpenVINO IR", "save_pretrained"),
        (("config.json", "model.pt2"), "program of torch.export", "save_pretrained"),
        (("config.json", "model.safetensors", "adapter_config.json"), "adapter of PEFT", "merge_and_unload()"),
        (("config.json", "q4.gguf"), "no readable GGUF", "save_pretrained"),
        (("q4.gguf", "q8.gguf"), "2 GGUF files", "q4.gguf"),
        (("model_index.json", "unet/config.json"), "pipeline", "parts"),
        (("config.json", "tf_model.h5"), "TensorFlow", "PyTorch"),
        (("config.json", "training_args.bin"), "no weights", "model.safetensors"),
        (("checkpoint-500/config.json",), "no config.json", "checkpoint-500"),
        (("model.safetensors",), "no config.json", "save_pretrained"),
    ],
)
def test_a_directory_says_what_it_holds_instead(files: tuple[str, ...], why: str, remedy: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(SourceError, match=why) as caught:
        open_source(tmp_path)
    assert remedy in caught.value.remedy


def test_missing_shards_and_quantized_checkpoints_are_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model-1.safetensors").write_text("", encoding="utf-8")
    index = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    with pytest.raises(SourceError, match=r"1 of 2 files .*model-2\.safetensors"):
        open_source(tmp_path)
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}', encoding="utf-8")
    with pytest.raises(SourceError, match=r"quantized already .*: gptq"):
        open_source(tmp_path)


@pytest.mark.parametrize("text", ["[]", "null", '"bert"'])
def test_a_configuration_that_is_no_object_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match="no object"):
        open_source(tmp_path)
