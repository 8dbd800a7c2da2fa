"""Saving of what is in memory alone: the weights of a model that stayed eager, and changed generation settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.artifact import LIVE, Manifest
from optimum_core.artifact.meaning import GENERATION, joined, meaning
from optimum_core.errors import OptionError, first_line
from optimum_core.hardware import detect
from optimum_core.plugins import PluginManager
from optimum_core.types import ExportRequest

Files = Mapping[str, Path]


@contextmanager
def with_weights(
    manifest: Manifest, source: Any, plugins: PluginManager, files: Files
) -> Iterator[tuple[Manifest, Files]]:
    """Yield the manifest and files to save; for an eager model, with its weights exported to a temporary directory."""
    if manifest.format != LIVE:
        yield manifest, files
        return
    with TemporaryDirectory() as folder:
        offers = plugins.support(manifest.backend, detect()).offers
        artifact = plugins.export(
            ExportRequest(
                backend=manifest.backend,
                source=source,
                task=manifest.task,
                format=next(offer.exports[0] for offer in offers if offer.live and offer.exports),
                precision=manifest.precision,
                samples={},
                inputs=manifest.inputs,
                outputs=manifest.outputs,
                output=Path(folder),
            )
        )
        written = {name: Path(folder) / name for name in artifact.files}
        if GENERATION in written and GENERATION in files:  # as changed in memory; the export has the original's
            written[GENERATION] = files[GENERATION]
        parts = {
            name: replace(part, format=artifact.format, model_files=artifact.files, steps=artifact.steps)
            for name, part in manifest.parts.items()
        }
        complete = replace(
            manifest,
            format=artifact.format,
            model_files=() if parts else artifact.files,
            parts=parts,
            steps=artifact.steps,
            files={name: entry for name, entry in manifest.files.items() if name in files and name not in written},
        )
        yield complete, {**files, **written}


@contextmanager
def with_settings(manifest: Manifest, config: Any, files: Files) -> Iterator[tuple[Manifest, Files]]:
    """Yield the manifest and files to save, with the generation settings as they are in memory.

    Args:
        config: the model's `generation_config`; None: it was never read, and so not changed.

    Raises:
        OptionError: transformers refuses to save them.
    """
    manifest = _known_anew(manifest, files)
    if config is None:
        yield manifest, files
        return
    with TemporaryDirectory() as folder:
        try:
            config.save_pretrained(folder)
        except ValueError as error:
            remedy = "change fast.generation_config so that its settings agree"
            raise OptionError("generation_config", first_line(error), remedy) from error
        written = Path(folder) / GENERATION
        known = manifest.meanings.get(GENERATION) or tuple(meaning(files[name]) for name in files if name == GENERATION)
        if meaning(written) in known:
            yield manifest, files
            return
        entries = {name: entry for name, entry in manifest.files.items() if name != GENERATION}
        meanings = {name: found for name, found in manifest.meanings.items() if name != GENERATION}
        yield replace(manifest, files=entries, meanings=meanings), {**files, GENERATION: written}


def _known_anew(manifest: Manifest, files: Files) -> Manifest:
    """Return the manifest of a converted model with what its tokenizer writes anew, where transformers is imported: it
    was converted without."""
    place = next((path.parent for name, path in files.items() if name == "config.json"), None)
    if manifest.model.has_original or place is None or "transformers" not in sys.modules:
        return manifest
    from optimum_core.models.sources.resaved_files import meanings_of

    return replace(manifest, meanings=joined(manifest.meanings, meanings_of(None, place)))
