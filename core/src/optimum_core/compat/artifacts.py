"""Checks of an artifact of ours that a class of another package opens: its task, and the format of its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optimum_core.errors import OptionError, UnavailableError

if TYPE_CHECKING:
    from optimum_core.artifact import Manifest


def check_artifact(who: str, place: Path, task: str | None, backend: str) -> None:
    """Refuse an artifact that is for another task than a class, or in a format that its backend does not load.

    Raises:
        ArtifactError: it is missing, altered, or of an unknown schema.
        OptionError: it is for another task.
        UnavailableError: its files are of another format.
    """
    from optimum_core.artifact import load

    manifest = load(place, verify_files=False)
    if task is not None and (why := _misfit(task, manifest)):
        remedy = f"use the class for its task, or optimum_core.load({str(place)!r})"
        raise OptionError(f"{who}, model_id", f"{str(place)!r} holds {why}", remedy)
    _check_format(who, place, manifest, backend)


def _misfit(task: str, manifest: Manifest) -> str:
    """Return what an artifact is instead of a model for a task; empty: it may be for that task."""
    from optimum_core.models import tasks
    from optimum_core.models.sources.agreement import contradiction

    if manifest.task == tasks.CUSTOM:
        why = contradiction(task, manifest.outputs)
        return why and f"a model for another task: {why}"
    if tasks.fits(task, manifest.task, manifest.model.class_name):
        return ""
    return f"a {manifest.model.class_name or 'model'}, which is for {manifest.task}, not {task}"


def _check_format(who: str, place: Path, manifest: Manifest, backend: str) -> None:
    """Raise `UnavailableError` where a backend loads no file of an artifact's format."""
    from optimum_core.artifact import LIVE
    from optimum_core.hardware import detect
    from optimum_core.plugins import manager

    offers = manager().support(backend, detect()).offers
    loads = {LIVE, *(name for offer in offers for name in (*offer.loads, *offer.stateful))}
    if offers and manifest.format not in loads:
        why = f"{str(place)!r} holds files of the format {manifest.format!r}, which backend {backend!r} does not load"
        remedy = f"use the class of backend {manifest.backend!r}, or optimum_core.load({str(place)!r})"
        raise UnavailableError(f"{who}, model_id", why, remedy)
