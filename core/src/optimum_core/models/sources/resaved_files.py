"""The files that a model's own tokenizer, processor and settings write when they are saved once more.

The transformers installed here writes the files of an older version in its own form. An artifact knows both forms, so
that `tokenizer.save_pretrained` into its directory leaves it whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.artifact.meaning import GENERATION, Meanings, joined, meaning
from optimum_core.models.pretrained import quiet, read_processor

#: The parts of a processor that can be saved by themselves.
_PARTS = ("tokenizer", "image_processor", "feature_extractor", "video_processor")


def meanings_of(source: Any, directory: Path) -> Meanings:
    """Return what the files may say that are written again beside a model, by name.

    Args:
        directory: of the artifact, with its companion files.
    """
    found: Meanings = {}
    for part in _parts(source, directory):
        found = joined(found, _written(part))
    return found


def _parts(source: Any, directory: Path) -> Iterator[Any]:
    processor = read_processor(directory)  # the source's own may be set to cut elsewhere
    yield from (getattr(source, "config", None), processor)
    yield from (getattr(processor, name, None) for name in _PARTS)
    if (settings := _settings(getattr(source, "config", None), directory)) is not None:
        yield settings


def _settings(config: Any, directory: Path) -> Any:
    """Return the generation settings beside a model, or those that transformers derives from its configuration; None:
    it reads or derives none, and so nothing writes them again."""
    if not (directory / GENERATION).is_file() and not hasattr(config, "to_dict"):
        return None
    from transformers import GenerationConfig

    try:
        if (directory / GENERATION).is_file():
            with quiet():
                return GenerationConfig.from_pretrained(directory)
        return GenerationConfig.from_model_config(config)
    except Exception as error:  # noqa: BLE001 - an encoder never reads this file
        logging.getLogger(__name__).info("no generation settings of %s: %s", directory, error)
        return None


def _written(part: Any) -> Meanings:
    """Return what the files say that `save_pretrained` writes; nothing where the part has none, or refuses."""
    if not hasattr(part, "save_pretrained"):
        return {}
    with TemporaryDirectory() as folder:
        try:
            with quiet():
                part.save_pretrained(folder)
        except Exception as error:  # noqa: BLE001 - what cannot be saved is not saved over the artifact either
            logging.getLogger(__name__).info("%s cannot be saved: %s", type(part).__name__, error)
            return {}
        return {path.name: (meaning(path),) for path in Path(folder).iterdir() if path.is_file()}
