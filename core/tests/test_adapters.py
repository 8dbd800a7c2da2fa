"""Adapters of PEFT are merged into the model that they are for, on a copy, and compared with both apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from optimum_core import accelerate
from optimum_core.errors import SourceError, UnavailableError
from optimum_core.models.sources import adapters
from optimum_core.models.sources.source import open_source

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.tensor([[5, 9, 11, 2], [7, 8, 3, 1]])
_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def _base(directory: Path) -> Path:
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=32, **_SIZES)
    transformers.BertForSequenceClassification(config).save_pretrained(directory / "base")
    return directory / "base"


def _adapted(directory: Path, **others: Any) -> Any:
    """Return a classifier of three classes with LoRA weights that are not zero."""
    peft = pytest.importorskip("peft")
    base = transformers.BertForSequenceClassification.from_pretrained(
        _base(directory), num_labels=3, ignore_mismatched_sizes=True
    )
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], lora_dropout=0.1, **others)
    adapted = peft.get_peft_model(base, lora)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "classifier" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return adapted


def _logits(model: Any) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return np.asarray(model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438\n", "{name} is a pointer of git-lfs"),
        (b"\1\2", "{name} cannot be read: .*Error.*\n.*fetch or save the adapter again"),
    ],
)
def test_weights_that_were_not_fetched_or_are_damaged_are_named(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    described = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": str(_base(tmp_path))}
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    (adapter / name).write_bytes(content)
    with pytest.raises(SourceError, match=why.format(name=name.replace(".", r"\."))):
        accelerate(adapter, target="ort", budget=0, cache_dir=tmp_path / "cache")


def test_a_directory_is_merged_into_the_base_that_it_names(tmp_path: Path) -> None:
    adapted = _adapted(tmp_path)
    adapted.save_pretrained(tmp_path / "adapter")
    fast = accelerate(tmp_path / "adapter", target="ort", budget=0, cache_dir=tmp_path / "cache")
    want = _logits(adapted.eval())
    assert want.shape == (2, 3)
    assert np.allclose(_logits(fast), want, atol=1e-4)
    with adapted.disable_adapter():
        assert not np.allclose(_logits(adapted), want, atol=1e-2)
    assert fast.report is not None
    assert any("adapters were merged" in note and "base" in note for note in fast.report.notes)
    assert fast.config.num_labels == 3


def test_a_model_in_memory_stays_as_it_was(tmp_path: Path) -> None:
    adapted = _adapted(tmp_path).train()
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    fast = accelerate(adapted, target="ort", budget=0, cache_dir=tmp_path / "cache")
    after = adapted.state_dict()
    assert adapted.training
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert np.allclose(_logits(fast), _logits(adapted.eval()), atol=1e-4)


@pytest.mark.parametrize("state", ["off", "merged", "merged, then off", "two at once", "the second"])
def test_adapters_act_as_they_do_in_the_model(tmp_path: Path, state: str) -> None:
    peft = pytest.importorskip("peft")
    adapted = _adapted(tmp_path)
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=["query", "key"]))
    for name, weight in adapted.named_parameters():
        if "lora_B.other" in name:
            torch.nn.init.normal_(weight, std=0.5)
    if "merged" in state:
        adapted.merge_adapter()
    if "off" in state:
        adapted.base_model.disable_adapter_layers()
    if state == "two at once":
        for layer in adapted.modules():
            if hasattr(layer, "lora_A"):
                layer.set_adapter(["default", "other"])
    if state == "the second":
        adapted.set_adapter("other")
    want = _logits(adapted.eval())
    source = open_source(adapted)
    assert np.allclose(_logits(source.module()), want, atol=1e-5)
    assert np.allclose(_logits(adapted), want, atol=1e-5)


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    _adapted(tmp_path).save_pretrained(tmp_path / "adapter")
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=32, **{**_SIZES, "hidden_size": 32})
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "base")
    with pytest.raises(SourceError, match="adapter"):
        open_source(tmp_path / "adapter").module()


def test_prompts_cannot_be_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = transformers.BertForSequenceClassification.from_pretrained(_base(tmp_path))
    prompts = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    with pytest.raises(SourceError, match=r"can be merged into weights\n.*accelerate the checkpoint"):
        open_source(peft.get_peft_model(base, prompts))


def test_without_peft_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "x/y"}), encoding="utf-8")
    monkeypatch.setattr(adapters, "present", lambda package: package != "peft")
    with pytest.raises(UnavailableError, match="PEFT") as caught:
        open_source(tmp_path)
    assert caught.value.remedy == "pip install peft"


@pytest.mark.parametrize(
    ("described", "why"), [({}, "names no model"), ({"base_model_name_or_path": "owner/absent"}, "owner/absent")]
)
def test_a_base_that_is_not_there_is_named(
    described: dict[str, str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.setattr(adapters, "present", lambda package: True)
    with pytest.raises(SourceError, match=why):
        open_source(tmp_path)
