"""The settings of a sentence encoder that lie beside its graph, in the files that sentence-transformers writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimum_core.artifact.names import MANIFEST
from optimum_core.types.tensors import MODULES, SENTENCE, TOKENS

__all__ = ["MODULES", "POOLING_MASK", "SENTENCE", "TOKENS", "EmbeddingSettings"]

#: The modules of a sentence encoder, in order, and the file that makes a directory one.
SETTINGS = "config_sentence_transformers.json"
#: Files with the greatest length in tokens, the first that exists counts; the older ones are named after the model.
LENGTHS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
#: The input of a sentence encoder whose pooling leaves the prompt out: the positions that are pooled.
POOLING_MASK = "pooling_mask"


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingSettings:
    """The settings of `encode`, `similarity` and `rank`.

    Attributes:
        prompts: prompts by name; each is put before a text.
        default_prompt_name: the prompt of a call that names none.
        max_seq_length: the length in tokens that texts are cut at, whatever the tokenizer says; None: the tokenizer's.
        do_lower_case: lower-case texts before the tokenizer's own normalization.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan".
        truncate_dim: the number of dimensions kept by default; None: all.
        activation_fn: the Python path of the function applied to the scores of a cross-encoder; None: the sigmoid for
            one label, no function for several.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    activation_fn: str | None = None

    @classmethod
    def read(cls, directory: Path) -> EmbeddingSettings:
        """Return the settings of a directory; those that it does not state have their defaults."""
        stated, lengths = read_object(directory / SETTINGS), read_lengths(directory)
        return cls(
            prompts={name: text or "" for name, text in (stated.get("prompts") or {}).items()},
            default_prompt_name=stated.get("default_prompt_name"),
            max_seq_length=lengths.get("max_seq_length"),
            do_lower_case=bool(lengths.get("do_lower_case", False)),
            similarity_fn_name=stated.get("similarity_fn_name") or "cosine",
            truncate_dim=stated.get("truncate_dim"),
            activation_fn=stated.get("activation_fn") or _activation(read_object(directory / "config.json")),
        )

    def write(self, directory: Path) -> None:
        """Write the settings as sentence-transformers reads them."""
        stated = {
            "prompts": dict(self.prompts),
            "default_prompt_name": self.default_prompt_name,
            "similarity_fn_name": self.similarity_fn_name,
            **({"truncate_dim": self.truncate_dim} if self.truncate_dim else {}),
            **({"activation_fn": self.activation_fn} if self.activation_fn else {}),
        }
        lengths = {"max_seq_length": self.max_seq_length, "do_lower_case": self.do_lower_case}
        write_object(directory / SETTINGS, stated)
        write_object(directory / LENGTHS[0], lengths)


def _activation(config: Mapping[str, Any]) -> str | None:
    """Return the activation of a cross-encoder as its configuration states it, in the way of version 4 or before."""
    nested = config.get("sentence_transformers")
    stated = nested.get("activation_fn") if isinstance(nested, Mapping) else None
    return stated or config.get("sbert_ce_default_activation_function")


def read_lengths(directory: Path) -> dict[str, Any]:
    """Return the content of the first file of `LENGTHS` that exists; nothing where none does."""
    return next((read_object(directory / name) for name in LENGTHS if _counts(directory / name)), {})


def read_object(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file; nothing where there is no such file, or it was put into an artifact later.

    Raises:
        ValueError: it is no JSON, or holds no object.
    """
    if not _counts(file):
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a {type(found).__name__}, and no object")
    return found


def _counts(file: Path) -> bool:
    """Whether a file is there and, in an artifact, one of those that the manifest lists."""
    if not file.is_file():
        return False
    manifest = file.with_name(MANIFEST)
    return not manifest.is_file() or file.name in json.loads(manifest.read_text(encoding="utf-8"))["files"]


def write_object(file: Path, value: Any) -> None:
    """Write a value as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
