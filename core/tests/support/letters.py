"""A tokenizer of single bytes, written as files: 256 tokens, the beginning and the end of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_letters(directory: Path, template: str, **stated: Any) -> None:
    """Write the tokenizer with a template of chats; `stated` goes into its configuration."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", **stated}
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
