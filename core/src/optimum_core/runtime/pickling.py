"""Pickling, copying and spawning: an accelerated model goes by way of its artifact, and is opened anew."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.artifact import LIVE, Manifest
from optimum_core.errors import ArtifactError, UnavailableError
from optimum_core.plugins import PluginManager

_ELSEWHERE = "save_pretrained(directory) where both sides see it, and optimum_core.load(directory) there"


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """How a model was opened.

    Attributes:
        target: as it was asked for; None: what it was tuned for, or what there is.
        precision: the arithmetic of its session; None: the manifest's.
        options: those given for the backend; None: the manifest's.
    """

    target: str | None = None
    precision: str | None = None
    options: Mapping[str, Any] | None = None


def reduced(
    manifest: Manifest, directory: Path, source: Any, opening: Opening
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """What pickle is to write of a model: its manifest and where its files lie; of a live one, the eager model too.

    Raises:
        UnavailableError: it stayed eager, and the eager model cannot be pickled.
    """
    who = f"model {manifest.model.name!r}"
    if manifest.format != LIVE:
        return _reopen, (manifest, str(directory), None, opening)
    try:
        weights = pickle.dumps(source)
    except Exception as error:  # pickle fails in as many ways as there are classes
        why = f"it stayed eager, as the fastest, and the eager model cannot be pickled: {error}"
        raise UnavailableError(who, why, f"define its class at the top of a module; or {_ELSEWHERE}") from error
    return _reopen, (manifest, str(directory), weights, opening)


def _reopen(manifest: Manifest, place: str, weights: bytes | None, opening: Opening) -> Any:
    from optimum_core.plugins import manager

    return reopened(manifest, Path(place), manager(), pickle.loads(weights) if weights is not None else None, opening)


def reopened(manifest: Manifest, directory: Path, plugins: PluginManager, source: Any, opening: Opening) -> Any:
    """The same model on a session of its own.

    Raises:
        ArtifactError: its files are not here, or are no longer those of the manifest.
    """
    from optimum_core.runtime.opening import open_model

    _require_files(manifest, directory)
    target, options = opening.target, opening.options
    return open_model(manifest, directory, plugins=plugins, source=source, target=target, options=options)


def _require_files(manifest: Manifest, directory: Path) -> None:
    """
    Raises:
        ArtifactError: the files are not here, or are no longer those of the manifest.
    """
    who = f"model {manifest.model.name!r}"
    for name in manifest.model_files if manifest.format != LIVE else ():
        file = directory / name
        entry = manifest.files.get(name)
        if not file.is_file() or (entry is not None and file.stat().st_size != entry.size):
            why = f"it was pickled by reference to {file}, which is not here or was changed"
            raise ArtifactError(who, why, _ELSEWHERE)
