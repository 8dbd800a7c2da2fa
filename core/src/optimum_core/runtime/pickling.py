"""Pickling and copying of an accelerated model, which refers to its artifact and is opened again from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.artifact import LIVE, Manifest
from optimum_core.artifact.integrity import describe
from optimum_core.errors import ArtifactError, UnavailableError
from optimum_core.plugins import PluginManager, manager
from optimum_core.runtime.files_beside import FilesBeside

_ELSEWHERE = "save_pretrained(directory) where both sides see it, and optimum_core.load(directory) there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The arguments with which a model was opened.

    Attributes:
        target: as passed; None: the backend it was tuned for, or another that is available.
        precision: the arithmetic of its session; None: the manifest's.
        options: the backend options passed; None: the manifest's.
    """

    target: str | None = None
    precision: str | None = None
    options: Mapping[str, Any] | None = None


def reduced(
    manifest: Manifest, directory: Path, source: Any, opening: Opening
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the state to pickle: the manifest and the directory of its files; for an eager one, the model as well.

    Raises:
        UnavailableError: it stayed eager, and the eager model cannot be pickled.
    """
    who = f"model {manifest.model.name!r}"
    if manifest.format != LIVE:
        return _reopen, (manifest, str(directory), None, opening)
    try:
        weights = pickle.dumps(source)
    except Exception as error:  # classes raise errors of any type when pickled
        why = f"it stayed eager, as the fastest, and the eager model cannot be pickled: {error}"
        raise UnavailableError(who, why, f"define its class at the top of a module; or {_ELSEWHERE}") from error
    return _reopen, (manifest, str(directory), weights, opening)


def _reopen(manifest: Manifest, place: str, weights: bytes | None, opening: Opening) -> Any:
    return reopened(manifest, Path(place), manager(), pickle.loads(weights) if weights is not None else None, opening)


def reopened(manifest: Manifest, directory: Path, plugins: PluginManager, source: Any, opening: Opening) -> Any:
    """Return the same model with its own session.

    Raises:
        ArtifactError: its files are missing, or no longer those of the manifest.
    """
    from optimum_core.runtime.opening import open_model  # it imports the model, which imports this module

    require_files(manifest, directory, "it was pickled by reference to", _ELSEWHERE)
    target, options = opening.target, opening.options
    return open_model(manifest, directory, plugins=plugins, source=source, target=target, options=options)


def require_files(manifest: Manifest, directory: Path, use: str, remedy: str) -> None:
    """Check that the files of the manifest are there, and are those that were opened.

    Args:
        use: the need for the files, which the error puts before the name of one that is missing or changed.
        remedy: of that error.

    Raises:
        ArtifactError: a file is missing, or no longer that of the manifest.
    """
    who = f"model {manifest.model.name!r}"
    for name in manifest.part_files if manifest.format != LIVE else ():
        file, entry = directory / name, manifest.files.get(name)
        if not file.is_file() or (entry is not None and (file.stat().st_size != entry.size or describe(file) != entry)):
            raise ArtifactError(who, f"{use} {file}, which is not here or was changed", remedy)
    FilesBeside(who, directory, manifest).checked()
