"""The files beside the weights that belong to a model: configuration, tokenizer, processor, generation settings."""

from __future__ import annotations

from pathlib import Path

from optimum_core.artifact.embedding import MODULES

_PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*/config.json")
_LEFT_OUT = ("*.index.json", "optimum.json", "requirements*.txt", "trainer_state.json", MODULES)
_CARD, _LICENCE = "README.md", ("license", "license_name", "license_link")


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
    first, *lines = card.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    found: dict[str, str] = {}
    for line in lines if first.strip() == "---" else ():
        if line.strip() == "---":
            return found
        name, _, value = line.partition(":")
        if name in _LICENCE and (plain := value.split(" #")[0].strip().strip("'\"")):
            found[name] = plain
    return {}  # a header without an end is none


def modules_of(directory: Path) -> dict[str, Path]:
    """Return the list of modules of a sentence encoder whose graph is its transformer alone, if there is one."""
    file = directory / MODULES
    return {MODULES: file} if file.is_file() else {}
