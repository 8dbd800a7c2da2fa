"""Directories of ONNX files load as they are: the task, the classes and the tokenizer are those beside the graph."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from optimum_core import accelerate, load
from optimum_core.errors import ArtifactError, InputError, SourceError
from optimum_core.models.sources.agreement import contradiction
from optimum_core.models.sources.source import DirectorySource, open_source
from optimum_core.types import TensorSpec

_LABELS = {0: "bad", 1: "fair", 2: "good"}
_IDS = torch.tensor([[5, 9, 11, 2], [7, 8, 3, 1]])


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _classifier() -> Any:
    config = transformers.DistilBertConfig(
        vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2, max_position_embeddings=32, id2label=_LABELS,
        label2id={label: index for index, label in _LABELS.items()},
        architectures=["DistilBertForSequenceClassification"],
    )  # fmt: skip
    return transformers.DistilBertForSequenceClassification(config).eval()


def _export(model: Any, path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {0: "batch_size", 1: "sequence_length"}
    inputs = {"input_ids": _IDS, "attention_mask": torch.ones_like(_IDS)}
    names = names or tuple(inputs)
    torch.onnx.export(
        _Logits(model).eval(), tuple(inputs[name] for name in names), path, dynamo=False, opset_version=18,
        input_names=list(names), output_names=["logits"],
        dynamic_axes={**dict.fromkeys(names, axes), "logits": {0: "batch_size"}},
    )  # fmt: skip


def _tokenizer() -> Any:
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, **{f"w{index}": index for index in range(2, 40)}}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    names = ["input_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("place", ["model.onnx", "model_quantized.onnx", "onnx/model.onnx"])
def test_a_directory_is_its_graph(place: str, tmp_path: Path) -> None:
    model, directory = _classifier(), tmp_path / "theirs"
    _export(model, directory / place)
    model.config.save_pretrained(directory)
    _tokenizer().save_pretrained(directory)
    source = open_source(directory)
    assert source.name == "theirs"
    assert source.task == "text-classification"
    if place == "model_quantized.onnx":
        return  # the whole way is the same
    fast = accelerate(directory, target="ort", budget=0, cache_dir=tmp_path / "cache")
    with torch.no_grad():
        want = model(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).logits
    assert np.allclose(fast(input_ids=_IDS, attention_mask=torch.ones_like(_IDS)).logits, want, atol=1e-4)
    assert fast.config.id2label == _LABELS
    assert "unverified against an original" in repr(fast)
    fast.save_pretrained(tmp_path / "out")
    again = load(tmp_path / "out")
    assert not again.manifest.model.has_original
    assert again.manifest.task == "text-classification"
    classify = transformers.pipeline("text-classification", model=fast, tokenizer=_tokenizer())
    assert classify("w5 w9 w11")[0]["label"] in _LABELS.values()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_a_graph_without_a_mask_takes_one_that_says_nothing(tmp_path: Path) -> None:
    model = _classifier()
    _export(model, tmp_path / "model.onnx", "input_ids")
    model.config.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    fast = accelerate(tmp_path, target="ort", budget=0, cache_dir=tmp_path / "cache")
    ones = torch.ones_like(_IDS)
    want = fast(input_ids=_IDS).logits
    for _ in range(3):
        assert torch.equal(fast(input_ids=_IDS, attention_mask=ones, token_type_ids=0 * ones).logits, want)
    for name, value, remedy in (
        ("attention_mask", 0, "items of one length"),
        ("token_type_ids", 1, "leave token_type"),
    ):
        said = torch.full_like(_IDS, value)
        with pytest.raises(InputError, match=rf"'{name}' holds other values(.|\n)*{remedy}"):
            fast(input_ids=_IDS, **{name: said})
    with pytest.raises(InputError, match="no input 'position_ids'"):
        fast(input_ids=_IDS, position_ids=_IDS)
    texts = ["w5 w9 w11 w2", "w7", "w7 w8 w3 w1"]
    alone = [fast.map([text]).logits[0] for text in texts]
    assert np.allclose(fast.map(texts).logits, alone, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
def test_a_configuration_has_to_agree_with_the_graph(tmp_path: Path) -> None:
    model = _classifier()
    _export(model, tmp_path / "model.onnx")
    _tokenizer().save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    stated = (tmp_path / "config.json").read_text(encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"(?s)holds model\.onnx and no optimum\.json.*accelerate\("):
        load(tmp_path)
    for wrong, error in (
        (stated.replace("ForSequence", "ForToken"), r"logits are \[batch, 3\], and those of token-classification"),
        (stated.replace('"2": "good"', '"2": "good", "3": "best"'), "names 4 classes .* logits of 3"),
        ("{", "is no JSON"),
    ):
        (tmp_path / "config.json").write_text(wrong, encoding="utf-8")
        with pytest.raises(SourceError, match=error):
            accelerate(tmp_path, target="ort", budget=0, cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("config.json", '{"architectures": 7}', "states architectures as 7, and no list of names"),
        ("config.json", '{"id2label": "good"}', "states id2label as 'good', and no object"),
        ("config.json", "null", "holds a NoneType, and no object"),
        ("generation_config.json", "{", "is no JSON"),
        ("sentence_bert_config.json", "[]", "holds a list, and no object"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("weights", ["model.onnx", "model.safetensors"])
def test_damaged_settings_are_named(weights: str, name: str, content: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    if name.startswith("generation") and weights.endswith(".onnx"):
        _export(_classifier(), tmp_path / weights)  # whether it is a decoder's is seen first
    else:
        (tmp_path / weights).write_bytes(b"any")
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(SourceError, match=error):
        accelerate(tmp_path, budget=0)


@pytest.mark.parametrize("wrong", [{"dim": "wide"}, {"dtype": "nosuch"}])
def test_a_configuration_that_its_class_does_not_take_is_named(wrong: dict[str, Any], tmp_path: Path) -> None:
    _classifier().save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**stated, **wrong}), encoding="utf-8")
    with pytest.raises(SourceError, match="transformers cannot read its configuration"):
        accelerate(tmp_path, budget=0)


@pytest.mark.parametrize(
    ("task", "names", "fits"),
    [
        ("text-classification", ("start_logits", "end_logits"), False),
        ("question-answering", ("start_logits", "end_logits"), True),
        ("question-answering", ("logits",), False),
        ("question-answering", ("output_0", "output_1"), True),
        ("document-question-answering", ("start_logits", "end_logits"), True),
    ],
)
def test_outputs_by_name_have_to_be_those_of_the_task(task: str, names: tuple[str, ...], fits: bool) -> None:
    outputs = [TensorSpec(name=name, dtype="float32", shape=("batch", "sequence")) for name in names]
    assert (contradiction(task, outputs) == "") == fits


def test_the_stages_of_an_export_for_generation_are_named(tmp_path: Path) -> None:
    stages = {name: {"file": f"{name}.onnx"} for name in ("prefill", "decode")}
    (tmp_path / "export.json").write_text(json.dumps({"export_format": "onnx", "components": stages}), encoding="utf-8")
    for name in stages:
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"prefill\.onnx, decode\.onnx are parts of one model"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "names",
    [("model.onnx",), ("encoder_model.onnx", "decoder_model_merged.onnx")],
    ids=["decoder", "encoder and decoder"],
)
@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1"], ids=["empty", "pointer"])
def test_damaged_files_of_models_that_generate_are_named(
    names: tuple[str, ...], content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    for name in names:
        (tmp_path / name).write_bytes(content)
    why = "is empty" if not content else "does not open as ONNX"
    with pytest.raises(SourceError, match=rf"(?s)model\.onnx {why}.*download its files again"):
        load(tmp_path)


def test_weights_for_torch_are_the_original(tmp_path: Path) -> None:
    _classifier().save_pretrained(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"")
    assert isinstance(open_source(tmp_path), DirectorySource)
    shutil.rmtree(tmp_path)


def test_an_onnx_file_without_a_graph_is_named(tmp_path: Path) -> None:
    for content, why in ((b"", "model.onnx is empty"), (b"\x08\x0a", r"\(2 bytes\) holds no graph")):  # a version alone
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(SourceError, match=why):
            _ = open_source(tmp_path / "model.onnx").fingerprint
