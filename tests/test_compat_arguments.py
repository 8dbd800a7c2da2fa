"""Calls of optimum-onnx's and optimum-intel's own tutorials, with one changed import."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.classifier import Classifier

from optimum_core.compat import (
    AutoCalibrationConfig,
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    IgnoredArgumentWarning,
    OptimizationConfig,
    ORTModelForCausalLM,
    ORTModelForImageClassification,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
    OVModelForImageClassification,
    OVModelForSeq2SeqLM,
    OVModelForSequenceClassification,
    OVWeightQuantizationConfig,
)
from optimum_core.compat.weights import quantized
from optimum_core.errors import OptionError, SourceError, UnavailableError
from optimum_core.plugins import manager
from optimum_core.types import Gpu, Hardware

_TEXT = "w3 w5 w8"


@pytest.fixture(scope="module")
def inputs(classifier: Classifier) -> Any:
    return classifier.tokenizer(_TEXT, return_tensors="pt")


@pytest.fixture(scope="module")
def expected(classifier: Classifier, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return classifier.model(**inputs).logits  # type: ignore[no-any-return]


def _same(model: Any, inputs: Any, expected: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(model(**inputs).logits, expected, atol=tolerance)


def test_a_model_is_reshaped_before_it_is_compiled(classifier: Classifier, inputs: Any, expected: torch.Tensor) -> None:
    place = classifier.directory
    model = OVModelForSequenceClassification.from_pretrained(place, export=True, compile=False, budget=0)
    assert repr(model) == "<OVModelForSequenceClassification: not compiled yet>"
    model.close()  # nothing is open
    assert model.reshape(1, 9) is model
    model.compile()
    assert model.report is not None and model.report.workload == ("batch=1 sequence=9",)
    assert _same(model, inputs, expected), "a call of another length is right all the same"
    model.compile()
    session = model._session
    model.reshape(-1, 5)
    answer = model(**inputs)  # its first use builds it
    assert torch.allclose(answer.logits, expected, atol=1e-4) and model._session is not session
    assert model.report.workload == ("sequence=5",)
    assert model.config.num_labels == classifier.model.config.num_labels
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, answer.logits)


def test_weights_are_halved_and_devices_named_as_there(
    classifier: Classifier, inputs: Any, expected: torch.Tensor
) -> None:
    model = OVModelForSequenceClassification.from_pretrained(classifier.directory, compile=False, budget=5)
    assert model.to("CPU") is model and model.half() is model and model.to(torch.device("cpu")) is model
    with pytest.raises(UnavailableError, match=r"device: 'GPU' cannot run on this machine(.|\n)*leave device out"):
        model.to("GPU")
    assert _same(model, inputs, expected, 0.05) and model.manifest.quantized == "weight-only-fp16"


def test_an_artifact_is_not_reshaped(classifier: Classifier, tmp_path: Path) -> None:
    OVModelForSequenceClassification.from_pretrained(classifier.directory, budget=0).save_pretrained(tmp_path / "out")
    model = OVModelForSequenceClassification.from_pretrained(tmp_path / "out", compile=False)
    with pytest.warns(IgnoredArgumentWarning, match=r"reshape has no effect: .* is opened as it was built"):
        model.reshape(1, 9)
    assert model.manifest.backend == "openvino"


def test_pictures_and_encoders_with_decoders_are_reshaped(tiny: Callable[..., Any], tmp_path: Path) -> None:
    picture, pixels = tiny("resnet"), torch.rand(1, 3, 64, 64)
    picture.save_pretrained(tmp_path / "resnet")
    model = OVModelForImageClassification.from_pretrained(tmp_path / "resnet", compile=False, budget=0)
    model.reshape(1, 3, 64, 64)
    assert _same(model, {"pixel_values": pixels}, picture(pixel_values=pixels).logits)
    writer, ids = tiny("t5"), torch.tensor([[5, 6, 7]])
    writer.save_pretrained(tmp_path / "t5")
    model = OVModelForSeq2SeqLM.from_pretrained(tmp_path / "t5", compile=False, budget=0)
    model.reshape(1, 20)
    assert torch.equal(model.generate(ids, max_new_tokens=5), writer.generate(ids, max_new_tokens=5))


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ({"bits": 4, "sym": True, "group_size": 16, "ratio": 0.8}, ("int4", True, 16, 0.8, None)),
        ({"bits": 8, "sym": False, "group_size": -1, "ratio": 1.0}, ("int8", False, None, None, None)),
        ({"dtype": "nf4"}, ("nf4", None, None, None, None)),
        ({"bits": 4, "quant_method": "awq", "dataset": ["w1"]}, ("int4", None, None, None, "awq")),
        ({"bits": 4, "gptq": True, "weight_only": True, "all_layers": None}, ("int4", None, None, None, "gptq")),
    ],
)
def test_a_mapping_of_theirs_is_a_configuration(given: dict[str, Any], stated: tuple[Any, ...]) -> None:
    found = quantized("OVModelForCausalLM", None, given)
    config = found["quantize"]
    assert (config.weights, config.symmetric, config.group_size, config.ratio, config.algorithm) == stated
    assert found["calibration"] == given.get("dataset")


def test_weights_are_quantized_by_a_mapping(classifier: Classifier, inputs: Any, expected: torch.Tensor) -> None:
    model = OVModelForSequenceClassification.from_pretrained(
        classifier.directory, quantization_config={"bits": 8, "sym": True}, budget=10
    )
    assert model.manifest.quantized == "weight-only-int8" and _same(model, inputs, expected, 0.1)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"bits": 4, "dataset": "wikitext2"}, r"dataset: 'wikitext2' is a name(.|\n)*a list of a few hundred"),
        ({"bits": 8, "weight_only": False}, r"not of weights alone(.|\n)*quantize=\"int8\", calibration=texts"),
        (
            {"bits": 4, "backup_precision": "int8_sym"},
            r"backup_precision: 'int8_sym' is not taken(.|\n)*fields are: bits",
        ),
        ({"bits": 4, "gptq": True, "quant_method": "awq"}, "gptq and awq are asked for, and one is done"),
        ({"dtype": "mxfp4"}, r"weights: it cannot be 'mxfp4'"),
        (8, r"quantization_config: it is a int(.|\n)*OVWeightQuantizationConfig"),
    ],
)
def test_what_a_mapping_asks_for_and_is_not_here_is_refused(given: Any, error: str, classifier: Classifier) -> None:
    with pytest.raises(OptionError, match=error):
        OVModelForSequenceClassification.from_pretrained(classifier.directory, quantization_config=given)


def test_a_count_of_rows_that_are_not_there_is_said() -> None:
    with pytest.warns(IgnoredArgumentWarning, match="num_samples=100 has no effect"):
        config = OVWeightQuantizationConfig(bits=4, num_samples=100)  # type: ignore[call-arg]
    assert config.config().weights == "int4"


@pytest.mark.parametrize("cls", [ORTModelForSequenceClassification, OVModelForSequenceClassification])
def test_a_configuration_is_passed(
    cls: Any, classifier: Classifier, inputs: Any, expected: torch.Tensor, tmp_path: Path
) -> None:
    place = classifier.directory
    own = transformers.AutoConfig.from_pretrained(place)
    assert _same(cls.from_pretrained(place, config=own, budget=0), inputs, expected)
    names = [f"class {index}" for index in range(own.num_labels)]
    own.id2label, own.label2id = dict(enumerate(names)), {name: index for index, name in enumerate(names)}
    model = cls.from_pretrained(place, config=own, budget=0)
    answer = transformers.pipeline("text-classification", model=model, tokenizer=classifier.tokenizer)(_TEXT)
    assert answer[0]["label"] == names[int(expected.argmax())]
    model.save_pretrained(tmp_path / "out")
    assert _same(cls.from_pretrained(tmp_path / "out", config=own), inputs, expected)
    own.num_labels = own.num_labels + 2
    with pytest.raises(SourceError, match=r"other shapes than the configuration states: classifier\..* \(\[\d+"):
        cls.from_pretrained(place, config=own, budget=0)
    with pytest.raises(OptionError, match="holds no checkpoint that could be read under another configuration"):
        cls.from_pretrained(tmp_path / "out", config=own)
    with pytest.raises(OptionError, match=r"config: it is a dict(.|\n)*AutoConfig"):
        cls.from_pretrained(place, config={"num_labels": 2})


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "DmlExecutionProvider", "CoreMLExecutionProvider"])
def test_a_provider_that_is_absent_has_a_remedy_in_their_words(provider: str, classifier: Classifier) -> None:
    with pytest.raises(UnavailableError) as refused:
        ORTModelForSequenceClassification.from_pretrained(classifier.directory, provider=provider, budget=0)
    assert refused.value.remedy.startswith("leave provider out: it runs on cpu then") and "target" not in str(
        refused.value
    )


def test_a_gpu_without_its_build_names_the_package(
    classifier: Classifier, hardware: Callable[..., Hardware], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpu = hardware(gpus=(Gpu(name="any", vendor="nvidia"),))
    monkeypatch.setattr("optimum_core.hardware.detect", lambda: with_gpu)
    manager().supports(with_gpu)
    with pytest.raises(UnavailableError, match=r"does not contain it(.|\n)*pip install onnxruntime-gpu"):
        ORTModelForSequenceClassification.from_pretrained(classifier.directory, provider="CUDAExecutionProvider")


def test_arguments_of_tutorials_are_taken(
    classifier: Classifier, inputs: Any, expected: torch.Tensor, tmp_path: Path
) -> None:
    place = classifier.directory
    model = ORTModelForSequenceClassification.from_pretrained(place, from_transformers=True, budget=0)
    assert _same(model, inputs, expected)
    config = OptimizationConfig(
        optimization_level=99, enable_transformers_specific_optimizations=True, disable_gelu_fusion=False
    )  # type: ignore[call-arg]
    with pytest.warns(IgnoredArgumentWarning, match="file_suffix='' has no effect"):
        ORTOptimizer.from_pretrained(place).optimize(config, save_dir=tmp_path / "out", file_suffix="", budget=0)
    found = AutoOptimizationConfig.O2(for_gpu=False).arguments()
    assert found == {"target": "ort", "level": None, "precision": None}
    with pytest.raises(OptionError, match="disable_attention_fusion: True is not taken"):
        AutoOptimizationConfig.O2(disable_attention_fusion=True)


def test_rows_in_parts_are_one_calibration(classifier: Classifier, tmp_path: Path) -> None:
    quantizer = ORTQuantizer.from_pretrained(classifier.directory)
    with pytest.raises(OptionError, match="no rows were given"):
        quantizer.compute_ranges()
    rows = [text for text, _ in classifier.rows]
    for part in (rows[:20], rows[20:]):
        quantizer.partial_fit(part, AutoCalibrationConfig.minmax(part), use_gpu=False)
    config = AutoQuantizationConfig.avx2(is_static=True)
    with pytest.raises(OptionError, match="use_gpu: True is not taken"):
        quantizer.fit(rows, AutoCalibrationConfig.minmax(rows), use_gpu=True)
    ranges = quantizer.compute_ranges()
    with pytest.warns(IgnoredArgumentWarning, match="the model is not quantized: .*keeps the promise"):
        quantizer.quantize(config, save_dir=tmp_path / "out", calibration_tensors_range=ranges, budget=5)
    assert [*ranges.rows] == rows, "as often as they are asked for"
    assert ORTModelForSequenceClassification.from_pretrained(tmp_path / "out").manifest.quantized is None


def test_a_decoder_without_its_cache_writes_the_same(tiny: Callable[..., Any], tmp_path: Path) -> None:
    writer, ids = tiny("gpt2"), torch.tensor([[5, 6, 7]])
    writer.save_pretrained(tmp_path / "gpt2")
    with pytest.warns(IgnoredArgumentWarning, match="use_cache=False has no effect"):
        model = ORTModelForCausalLM.from_pretrained(tmp_path / "gpt2", use_cache=False, budget=0)
    asked: Any = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(model.generate(ids, **asked), writer.generate(ids, **asked))


def test_a_file_of_a_repository_is_fetched_with_what_describes_it(
    classifier: Classifier, inputs: Any, expected: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ORTModelForSequenceClassification.from_pretrained(classifier.directory, budget=0)
    model.save_pretrained(tmp_path / "theirs", layout="optimum")
    # As the hub's cache holds a repository.
    place = tmp_path / "hub" / "models--owner--name"
    shutil.copytree(tmp_path / "theirs", place / "snapshots" / "abc")
    (place / "snapshots" / "abc" / "onnx").mkdir()
    (place / "snapshots" / "abc" / "model.onnx").rename(place / "snapshots" / "abc" / "onnx" / "model_O2.onnx")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    hows: Any = ({"file_name": "onnx/model_O2.onnx"}, {"subfolder": "onnx", "file_name": "model_O2.onnx"})
    for how in hows:
        found = ORTModelForSequenceClassification.from_pretrained("owner/name", **how, budget=0)
        assert _same(found, inputs, expected) and found.config.num_labels == classifier.model.config.num_labels
    with pytest.raises(OptionError, match=r"file_name: .*onnx/other.onnx' is no file"):
        ORTModelForSequenceClassification.from_pretrained("owner/name", file_name="onnx/other.onnx")
    with pytest.raises(SourceError, match="the hub does not give it"):
        ORTModelForImageClassification.from_pretrained("owner/other", file_name="onnx/other.onnx")
