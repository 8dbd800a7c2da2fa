"""Saving of a model that stayed eager: its weights are exported only when it is saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.artifact import LIVE, Manifest
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
