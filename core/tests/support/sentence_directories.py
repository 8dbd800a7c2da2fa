"""Tiny directories of sentence-transformers, written file by file, so that its package need not be installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{f"w{n}": n for n in range(4, 110)}}
TEXTS = ["w5 w9 w7", "", "w50", " ".join(f"w{4 + n}" for n in range(90)), "W8 w9 w10 w11 w12 w13 w14"]
_TYPE = "sentence_transformers.models."


def write_tokenizer(directory: Path, **stated: Any) -> None:
    """A tokenizer of whole words, beginning and end marked; `stated` goes into its configuration."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    words.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    words.save(str(directory / "tokenizer.json"))
    specials = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **names, **specials, **stated}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def tiny_transformer(**settings: Any) -> Any:
    """A BERT of two layers with weights so large that a wrong mask shows."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, **settings,
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False).eval()


def dense(inputs: int, outputs: int, **stated: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Settings and weights of a `Dense`."""
    generator = torch.Generator().manual_seed(1)
    weights = {
        "linear.weight": torch.randn(outputs, inputs, generator=generator),
        "linear.bias": torch.randn(outputs, generator=generator),
    }
    activation = "torch.nn.modules.activation.Tanh"
    sizes = {"in_features": inputs, "out_features": outputs, "bias": True}
    return {**sizes, "activation_function": activation, **stated}, weights


def pooling(*modes: str, **stated: Any) -> tuple[str, dict[str, Any], dict[str, torch.Tensor]]:
    """A `Pooling` in these modes, by the older switches where it is one of those."""
    mode: Any = modes[0] if len(modes) == 1 else list(modes)
    return "Pooling", {"word_embedding_dimension": 32, "pooling_mode": mode, **stated}, {}


Module = tuple[str, Mapping[str, Any], Mapping[str, torch.Tensor]]
NORMALIZE: Module = ("Normalize", {}, {})


def write_directory(
    directory: Path,
    *modules: Module,
    settings: Mapping[str, Any] | None = None,
    lengths: Mapping[str, Any] | None = None,
    transformer: Any = None,
    folder: str = "",
    tokenizer: Mapping[str, Any] | None = None,
) -> Path:
    """Write a directory of a transformer and these modules: kind, settings and weights of each."""
    from safetensors.torch import save_file

    inside = directory / folder
    inside.mkdir(parents=True, exist_ok=True)
    (transformer if transformer is not None else tiny_transformer()).save_pretrained(inside)
    write_tokenizer(inside, **(tokenizer or {}))
    (inside / "sentence_bert_config.json").write_text(json.dumps(lengths or {}))
    listed = [{"idx": 0, "name": "0", "path": folder, "type": f"{_TYPE}Transformer"}]
    for number, (kind, stated, weights) in enumerate(modules, 1):
        place = directory / f"{number}_{kind}"
        place.mkdir()
        (place / "config.json").write_text(json.dumps(dict(stated)))
        if weights:
            save_file(dict(weights), place / "model.safetensors")
        listed.append({"idx": number, "name": str(number), "path": place.name, "type": f"{_TYPE}{kind}"})
    (directory / "modules.json").write_text(json.dumps(listed))
    if settings is not None:
        (directory / "config_sentence_transformers.json").write_text(json.dumps(dict(settings)))
    return directory


def by_hand(directory: Path, texts: Sequence[str], limit: int) -> list[torch.Tensor]:
    """The token vectors of each text alone, by transformers."""
    from transformers import AutoModel, AutoTokenizer

    model, words = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        return [
            model(**words(text, truncation=True, max_length=limit, return_tensors="pt")).last_hidden_state[0]
            for text in texts
        ]
