"""The meaning of the small files beside a model: equal where a tokenizer, a processor or settings were written again.

Tutorials write a tokenizer into the directory of its model. Its files then differ in their bytes: in the order of keys,
the version that wrote them, the padding of the last call; git may convert line endings. What counts is hashed here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optimum_core.artifact.names import CHECK_FILE
from optimum_core.artifact.serialization import canonical_json

GENERATION = "generation_config.json"
_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"
#: Keys of JSON files that say where they are from, and who wrote them.
_ORIGIN = frozenset(
    {"_commit_hash", "_from_model_config", "_name_or_path", "is_local", "local_files_only", "name_or_path"}
    | {"processor_class", "special_tokens_map_file", "tokenizer_file", "transformers_version"}
)
#: Keys by which a tokenizer pads, and cuts as in its last call, by file: rows are padded by the id in the model's
#: configuration here, on the side that the model needs, and cut by the length that is stated elsewhere.
_PADS: Mapping[str, frozenset[str]] = {
    _TOKENIZER: frozenset({"padding", "truncation"}),
    _CONFIG: frozenset({"pad_token", "padding_side"}),
    "special_tokens_map.json": frozenset({"pad_token"}),
}
#: Files of words, which `tokenizer.json` replaces.
_VOCABULARY = frozenset({"merges.txt", "vocab.json", "vocab.txt"})
#: Files of special tokens, which `added_tokens_decoder` in `tokenizer_config.json` replaces.
_OLDER = frozenset({"added_tokens.json", "special_tokens_map.json"})
#: Files that are read together: where an artifact has one of a family, another one changes what it says.
_FAMILIES: tuple[frozenset[str], ...] = (
    _VOCABULARY | _OLDER | {"chat_template.jinja", "chat_template.json", _TOKENIZER, _CONFIG},
    frozenset({"preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"}),
)
#: Ends of names of texts, whose lines git may end otherwise; a file of weights is never one, whatever its bytes.
_TEXTS = frozenset({".jinja", ".json", ".md", ".txt", ".xml"})

Meanings = Mapping[str, tuple[str, ...]]


def is_beside(name: str, model_files: Iterable[str]) -> bool:
    """Whether a file of an artifact is none of the model itself, nor the call that it carries."""
    return name != CHECK_FILE and name not in model_files


def meaning(file: Path) -> str:
    """Return a digest that is equal for files that say the same: JSON by its values, other text but for line endings.

    Raises:
        OSError: it cannot be read.
    """
    raw = unix_text(file)
    if raw is None:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    if file.suffix == ".json" and (tree := _parsed(raw)) is not None:
        neutral = _ORIGIN | _PADS.get(file.name, frozenset())
        kept = {key: value for key, value in tree.items() if key not in neutral} | _side(file, tree)
        return hashlib.sha256(canonical_json(kept)).hexdigest()
    return hashlib.sha256(raw).hexdigest()


def _side(file: Path, tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the end at which a `tokenizer.json` cuts texts, if it is not the usual one; nothing where
    `tokenizer_config.json` states the side, and goes before."""
    cut = tree.get("truncation")
    if file.name != _TOKENIZER or not isinstance(cut, dict) or cut.get("direction", "Right") == "Right":
        return {}
    return {} if "truncation_side" in _stated(file.parent) else {"cut": str(cut["direction"])}


def _stated(directory: Path) -> Mapping[str, Any]:
    """Return what `tokenizer_config.json` states."""
    file = directory / _CONFIG
    return (_parsed(file.read_bytes()) if file.is_file() else None) or {}


def _parsed(raw: bytes) -> dict[str, Any] | None:
    """Return the object in JSON; None: it is none, or holds NaN, which no two readers take alike."""
    try:
        tree = json.loads(raw)
        canonical_json(tree)
    except (ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None


def unix_text(file: Path, name: str | None = None) -> bytes | None:
    """Return the bytes of a text with "\\n" at the end of each line; None: by its name or its bytes it is no text.

    Args:
        name: the file's own, where the path is that of a blob.
    """
    if Path(name or file.name).suffix not in _TEXTS:
        return None
    raw = file.read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if b"\0" in raw else raw.replace(b"\r\n", b"\n")


def relatives(names: Iterable[str], directory: Path) -> Iterator[str]:
    """Yield the files that an artifact of these files lacks, and that would change the meaning of those it has."""
    listed = frozenset(names)
    if GENERATION not in listed:  # it is read beside any model
        yield GENERATION
    for family in _FAMILIES:
        if family & listed:
            yield from sorted(family - listed - _unread(listed, directory))


def _unread(listed: frozenset[str], directory: Path) -> frozenset[str]:
    """Return the files of a tokenizer that nothing reads beside those that are listed."""
    if _TOKENIZER not in listed:
        return frozenset()
    states_tokens = _CONFIG in listed and "added_tokens_decoder" in _stated(directory)
    return _VOCABULARY | _OLDER if states_tokens else _VOCABULARY


def joined(*found: Meanings) -> dict[str, tuple[str, ...]]:
    """Return all meanings by name, each once."""
    names = dict.fromkeys(name for each in found for name in each)
    return {name: tuple(dict.fromkeys(d for each in found for d in each.get(name, ()))) for name in names}
