"""The files beside the weights that belong to a model: configuration, tokenizer, processor, generation settings."""

from __future__ import annotations

from pathlib import Path

from optimum_core.artifact.embedding import MODULES
from optimum_core.artifact.names import MANIFEST
from optimum_core.models.sources.sentences.stored import PICKLE, weights_of

_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*/config.json")
_LEFT_OUT = ("*.index.json", MANIFEST, "requirements*.txt", "trainer_state.json", MODULES)
_CARD, _LINK = "README.md", "license_link"
_LICENCE = ("license", "license_name", _LINK)
#: Signs that a text follows in the next lines, and words for nothing.
_NO_VALUE = frozenset({">", ">-", ">+", "|", "|-", "|+", "null", "~"})


def companions(directory: Path) -> dict[str, Path]:
    """Return the files of `directory` to copy into an artifact, by their name in it."""
    found = {path for pattern in _PATTERNS for path in directory.glob(pattern) if path.is_file()}
    return {
        path.relative_to(directory).as_posix(): path
        for path in sorted(found)
        if not any(path.match(pattern) for pattern in _LEFT_OUT)
    }


def licence_of(directory: Path | None) -> dict[str, str]:
    """Return what the header of a model's card states of its licence, by the hub's names; empty: nothing."""
    card = directory / _CARD if directory is not None else None
    if card is None or not card.is_file():
        return {}
    first, *lines = card.read_text(encoding="utf-8-sig", errors="replace").splitlines() or [""]
    bare = [line.strip() for line in lines]
    if first.strip() != "---" or "---" not in bare:  # a header without an end is none
        return {}
    name, found = "", dict[str, list[str]]()
    for line in lines[: bare.index("---")]:
        if line[:1].isalpha():
            name, _, line = line.partition(":")
        if name in _LICENCE:
            found.setdefault(name, []).extend(_values(line))
    stated = {name: (", " if name == "license" else " ").join(values) for name, values in found.items() if values}
    if "://" not in stated.get(_LINK, "://"):  # of a file, which is not copied
        del stated[_LINK]
    return stated


def _values(text: str) -> list[str]:
    """Return what one line of a header gives for a name: a value, some in brackets, an item of a list."""
    text = "" if text.startswith("#") else text.split(" #")[0].strip()
    parts = text[1:-1].split(",") if text.startswith("[") and text.endswith("]") else [text.removeprefix("- ")]
    plain = (part.strip().strip("'\"") for part in parts)
    return [value for value in plain if value and value not in _NO_VALUE]


def modules_of(directory: Path) -> dict[str, Path]:
    """Return the list of modules of a sentence encoder, if there is one, and the files of their weights; pickles are
    written anew (`sentences.stored.without_pickles`)."""
    file = directory / MODULES
    weights = {name: path for name, path in weights_of(directory).items() if path.name != PICKLE}
    return {MODULES: file, **weights} if file.is_file() else {}
