"""Programs of optimum-onnx and optimum-intel run with one changed import."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from optimum_core import compat
from optimum_core.compat import (
    AutoCalibrationConfig,
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    IgnoredArgumentWarning,
    OptimizationConfig,
    ORTModelForFeatureExtraction,
    ORTModelForSequenceClassification,
    ORTOptimizer,
    ORTQuantizer,
    OVModelForCustomTasks,
    OVModelForSequenceClassification,
    OVWeightQuantizationConfig,
    QuantizationConfig,
)
from optimum_core.errors import OptionError, SourceError, UnavailableError
from optimum_core.types.presets import preset

_LABELS = {0: "bad", 1: "good"}
_IDS = torch.tensor([[5, 9, 11, 2], [7, 8, 3, 4]])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = transformers.DistilBertConfig(
            vocab_size=40, dim=32, hidden_dim=64, n_layers=1, n_heads=2, max_position_embeddings=32, id2label=_LABELS
        )
        transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    known = ["[PAD]", "[UNK]", "It", "is", "fast", "slow", "and", "it", "long", "short", "good", "bad", "old", ".", ","]
    names = [*known, *(f"w{index}" for index in range(len(known), 40))]
    words = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    names = ["input_ids", "attention_mask"]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compat-cache"))


def _eager(checkpoint: Path) -> Any:
    model = transformers.DistilBertForSequenceClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        return model(_IDS).logits


@pytest.mark.parametrize(
    ("cls", "more"),
    [
        (ORTModelForSequenceClassification, {"provider": "CPUExecutionProvider"}),
        (OVModelForSequenceClassification, {"device": "CPU"}),
    ],
)
def test_a_checkpoint_is_exported_saved_and_opened(
    cls: Any, more: dict[str, Any], checkpoint: Path, tmp_path: Path
) -> None:
    model = cls.from_pretrained(checkpoint, export=True, budget=0, **more)
    assert torch.allclose(model(input_ids=_IDS).logits, _eager(checkpoint), atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    answer = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)("w5 w9")
    assert answer[0]["label"] in _LABELS.values()
    assert (model.model_save_dir / "config.json").is_file()
    if cls is ORTModelForSequenceClassification:
        assert model.providers == [model.provider] == ["CPUExecutionProvider"]
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(cls.from_pretrained(tmp_path / "out")(input_ids=_IDS).logits, model(input_ids=_IDS).logits)
    with pytest.raises(OptionError, match=r"export: .* is accelerated already"):
        cls.from_pretrained(tmp_path / "out", export=True)
    other = getattr(compat, cls.__name__.replace("Sequence", "Token"))
    with pytest.raises(OptionError, match="which is for text-classification, not token-classification"):
        other.from_pretrained(tmp_path / "out")
    if cls is OVModelForSequenceClassification:
        with pytest.raises(UnavailableError, match=r"(?s)format 'openvino-ir', .* use the class of backend 'openvino'"):
            ORTModelForSequenceClassification.from_pretrained(tmp_path / "out")


def test_a_quantizer_of_theirs_runs(checkpoint: Path, tmp_path: Path) -> None:
    quantizer = ORTQuantizer.from_pretrained(ORTModelForSequenceClassification.from_pretrained(checkpoint, budget=0))
    config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=False)
    rows = [f"w{index % 25 + 15} w{index % 24 + 16}" for index in range(48)]
    ranges = quantizer.fit(
        dataset=rows,
        calibration_config=AutoCalibrationConfig.minmax(rows),
        operators_to_quantize=config.operators_to_quantize,
    )
    with pytest.raises(OptionError, match="static quantization needs it"):
        quantizer.quantize(save_dir=tmp_path / "out", quantization_config=config)
    quantizer.quantize(config, save_dir=tmp_path / "out", calibration_tensors_range=ranges, budget=5)
    model = ORTModelForSequenceClassification.from_pretrained(tmp_path / "out", file_name="model_quantized.onnx")
    assert model.manifest.quantized == "static-int8"
    assert torch.allclose(model(input_ids=_IDS).logits, _eager(checkpoint), atol=0.1)


def test_an_optimizer_of_theirs_runs(checkpoint: Path, tmp_path: Path) -> None:
    optimizer = ORTOptimizer.from_pretrained(str(checkpoint))
    place = optimizer.optimize(save_dir=tmp_path / "out", optimization_config=AutoOptimizationConfig.O1(), budget=0)
    model = ORTModelForSequenceClassification.from_pretrained(place, file_name="model_optimized.onnx")
    assert [step.options["level"] for step in model.manifest.steps if "level" in step.options] == ["basic"]
    assert torch.allclose(model(input_ids=_IDS).logits, _eager(checkpoint), atol=1e-4)
    with pytest.raises(OptionError, match="accelerated already"):
        ORTOptimizer.from_pretrained(place)


def test_weights_of_4_bits_are_asked_for_as_theirs(checkpoint: Path) -> None:
    found = OVWeightQuantizationConfig(bits=4, sym=True, group_size=32, ratio=0.8).config()
    assert (found.name, found.symmetric, found.group_size, found.ratio) == ("weight-only-int4", True, 32, 0.8)
    with pytest.raises(OptionError, match="int5"):
        OVWeightQuantizationConfig(bits=5).config()
    with pytest.raises(OptionError, match="load_in_8bit contradicts it"):
        OVModelForSequenceClassification.from_pretrained(
            checkpoint, load_in_8bit=True, quantization_config=OVWeightQuantizationConfig()
        )


def test_a_directory_of_theirs_opens(checkpoint: Path, tmp_path: Path) -> None:
    model = OVModelForSequenceClassification.from_pretrained(checkpoint, budget=0)
    model.save_pretrained(tmp_path / "theirs", layout="optimum")
    config = tmp_path / "theirs" / "config.json"
    stated = config.read_text(encoding="utf-8")
    for wrong, error in (
        (stated.replace("ForSequence", "ForToken"), r"logits are \[batch, 2\], and those of token-classification"),
        (stated.replace('"1": "good"', '"1": "good", "2": "best"'), "names 3 classes .* logits of 2"),
        ("{", "is no JSON"),
    ):
        config.write_text(wrong, encoding="utf-8")
        with pytest.raises(SourceError, match=error):
            OVModelForCustomTasks.from_pretrained(tmp_path / "theirs")
    config.write_text(stated, encoding="utf-8")
    again = OVModelForSequenceClassification.from_pretrained(tmp_path / "theirs", export=False)
    assert not again.manifest.model.has_original
    found = again(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).logits
    assert torch.allclose(found, _eager(checkpoint), atol=1e-4)
    # As on the hub: the graph in a folder, and its configuration around that.
    (tmp_path / "theirs" / "openvino").mkdir()
    for part in (tmp_path / "theirs").glob("openvino_model.*"):
        part.rename(part.parent / "openvino" / part.name)
    for name in (None, "openvino_model.xml"):
        folder = OVModelForSequenceClassification.from_pretrained(
            tmp_path / "theirs", subfolder="openvino", file_name=name
        )
        assert folder.config.id2label == _LABELS


_AUTO = AutoQuantizationConfig


@pytest.mark.parametrize(
    "made", [_AUTO.arm64, _AUTO.avx2, _AUTO.avx512, _AUTO.avx512_vnni, _AUTO.ppc64le, _AUTO.tensorrt]
)
def test_presets_are_ours(made: Callable[..., QuantizationConfig]) -> None:
    assert made(is_static=True).config == preset(made.__name__)
    found = made(is_static=True, per_channel=False, use_symmetric_weights=True).config
    assert (found.per_channel, found.symmetric) == (False, True)
    with pytest.raises(OptionError, match="names of nodes are those of one export"):
        made(is_static=True, nodes_to_exclude=["MatMul_3"])


def test_methods_of_calibration_are_ours() -> None:
    assert AutoCalibrationConfig.entropy([]).method == "entropy"
    assert AutoCalibrationConfig.minmax([], moving_average=True).method == "moving-average"
    found = AutoCalibrationConfig.percentiles([], percentile=99.9)
    assert (found.method, found.percentile) == ("percentile", 99.9)


def test_levels_of_optimization_are_ours() -> None:
    assert AutoOptimizationConfig.O2().arguments()["level"] is None
    assert AutoOptimizationConfig.O3().arguments()["level"] is None
    assert AutoOptimizationConfig.O4().arguments() == {"target": "ort:cuda", "level": None, "precision": "fp16"}
    assert OptimizationConfig(optimization_level=99).arguments()["level"] == "all"
    with pytest.raises(OptionError, match="OptimizationConfig, disable_gelu_fusion: True is not taken here"):
        OptimizationConfig(disable_gelu_fusion=True)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="7 is no level here"):
        OptimizationConfig(optimization_level=7).arguments()


def test_rows_for_calibration_come_from_a_dataset(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    rows = datasets.Dataset.from_list([{"text": f"w{index}"} for index in range(20)])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    found = ORTQuantizer.from_pretrained(checkpoint).get_calibration_dataset("any", num_samples=5)
    assert len(found) == 5 and set(found.column_names) == {"text"}


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"config": "other"}, "config: it is a str"),
        ({"session_options": object()}, r"(?s)session_options: .*options="),
        ({"provider": "OpenVINOExecutionProvider"}, "provider: .* is unknown"),
        ({"dynamic_shapes": False}, "dynamic_shapes: False is not taken"),
        ({"export": False}, "export: False, and .* holds no exported model"),
        ({"file_name": "other.onnx"}, "file_name: .* is no file"),
        ({"speed": 3}, "speed: 3 is not taken"),
    ],
)
def test_what_has_no_meaning_here_is_refused(asked: dict[str, Any], error: str, checkpoint: Path) -> None:
    with pytest.raises(OptionError, match=error):
        ORTModelForSequenceClassification.from_pretrained(checkpoint, **asked)


def test_another_task_is_refused(checkpoint: Path) -> None:
    with pytest.raises(OptionError, match="which is for text-classification, not feature-extraction"):
        ORTModelForFeatureExtraction.from_pretrained(checkpoint)


def test_what_changes_no_value_is_said(checkpoint: Path) -> None:
    with pytest.warns(IgnoredArgumentWarning, match="use_io_binding=False has no effect"):
        ORTModelForSequenceClassification.from_pretrained(checkpoint, use_io_binding=False, budget=0)


#: What keeps the searches of the page short, by the end of the call.
_SHORT = {
    "export=True)": "export=True, budget=0)",
    "compile=False)": "compile=False, budget=0)",
    "reshape(1, 128)": "reshape(1, 9)",
    'task="text-classification")': 'task="text-classification", budget=0)',
    "O1())": "O1(), budget=0)",
    "quantization_config=config)": "quantization_config=config, budget=5)",
    'target="ort")\nfast.save': 'target="ort", budget=0)\nfast.save',
}


def test_the_page_on_migration_runs(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "migrating.md").read_text(encoding="utf-8")
    blocks = re.findall(
        r"<!-- Run by tests/test_compat\.py\. -->\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 5
    found: dict[str, Any] = {}
    logits = []
    for block in blocks:
        for end, short in _SHORT.items():
            block = block.replace(end, short)
        exec(compile(block.replace('"owner/name"', repr(str(checkpoint))), "<page>", "exec"), found)  # our own page
        logits += [found["again"](input_ids=_IDS).logits]
        if "reshape" in block:
            assert torch.allclose(found["model"](input_ids=_IDS).logits, logits[0], atol=1e-4)
        shutil.rmtree("out", ignore_errors=True)
    assert torch.equal(logits[0], logits[1]), "side by side, both calls give the same model"
    assert {path.name for path in tmp_path.iterdir()} == {"optimized", "quantized", "theirs"}
    assert (tmp_path / "theirs" / "model.onnx").is_file()


def test_every_class_names_the_call_that_it_makes() -> None:
    for name in compat.__all__:
        item = getattr(compat, name)
        if "ModelFor" in name:
            target = "ort" if name.startswith("ORT") else "openvino"
            assert f'accelerate(model, target="{target}"' in str(item.__doc__), name
            assert item.task is None or f'task="{item.task}"' in str(item.__doc__), name


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("OVQuantizer", 'quantize="int8", calibration='),
        ("ORTModelForPix2Struct", 'target="ort"'),
        ("INCModelForSequenceClassification", 'target="inc"'),
        ("OVStableDiffusionPipeline", "its parts one by one"),
        ("pipeline", "transformers.pipeline"),
    ],
)
def test_a_class_of_theirs_that_is_not_here_says_what_is(name: str, instead: str) -> None:
    with pytest.raises(UnavailableError, match=rf"it has no {name}\n.*{instead}"):
        exec(f"from optimum_core.compat import {name}")
    with pytest.raises(ImportError):
        exec("from optimum_core.compat import Nothing")


def test_importing_it_is_light() -> None:
    code = (
        "import sys, optimum_core.compat; "
        "sys.exit(sorted({'torch', 'transformers', 'onnxruntime', 'openvino'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
