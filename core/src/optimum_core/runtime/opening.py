"""Opening of a model from its manifest: the choice of backend, device and precision, and the session."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimum_core.artifact import LIVE, Manifest
from optimum_core.errors import PrecisionError, TunedElsewhereWarning, UnavailableError
from optimum_core.generation.model_session import open_session
from optimum_core.hardware import detect
from optimum_core.plan import AUTO, FULL_PRECISION, parse_target
from optimum_core.plugins import PluginManager
from optimum_core.runtime.absent_device import ForeignSession, limits_of
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.pickling import Opening
from optimum_core.types import SessionRequest, Support
from optimum_core.types.support import device_type


def named_after(original: str) -> type[AcceleratedModel]:
    """Return a subclass with the original class's name, from which transformers' pipelines infer a model's tasks."""
    return type(original, (AcceleratedModel,), {"__doc__": AcceleratedModel.__doc__}) if original else AcceleratedModel


def open_model(
    manifest: Manifest,
    directory: Path,
    *,
    plugins: PluginManager,
    source: Any = None,
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    is_stated: bool = False,
) -> AcceleratedModel:
    """Open a model from a checked manifest, with the backend that it was tuned for or the one named.

    Args:
        is_stated: the caller asked for the manifest's precision; else it is opened in fp32 where the backend cannot
            compute in that one here.
    """
    backend, device, precision = _choose_backend(manifest, plugins, target)
    opening = Opening(target=target, precision=precision, options=options)
    artifact = manifest.artifact(directory)
    cls = named_after(manifest.model.class_name)
    if (limits := limits_of(plugins.supports(detect()).get(backend), device)) is not None:
        foreign = ForeignSession(
            backend=backend, device=device, inputs=artifact.inputs, outputs=artifact.outputs, why=limits[0],
            remedy=limits[1],
        )  # fmt: skip
        return cls(manifest, directory, foreign, plugins=plugins, source=source, opening=opening)
    asked = SessionRequest(
        backend=backend,
        artifact=artifact,
        device=device,
        hardware=detect(),
        precision=precision,
        level=manifest.level,
        streams=manifest.streams if manifest.streams > 1 else None,
        shapes=manifest.prepared,
        source=source,
        options=_options(manifest, backend) if options is None else options,
    )
    try:
        session = open_session(plugins, asked)
    except PrecisionError as error:
        if is_stated or precision == FULL_PRECISION:
            raise
        _say_what_computes_instead(manifest, error)
        session = open_session(plugins, replace(asked, precision=FULL_PRECISION))
        opening = replace(opening, precision=FULL_PRECISION)
    return cls(manifest, directory, session, plugins=plugins, source=source, opening=opening)


def _options(manifest: Manifest, backend: str) -> Mapping[str, Any]:
    """Return the manifest's session options, which only the backend that it was tuned for understands."""
    return manifest.session_options if backend == manifest.backend else {}


def _choose_backend(manifest: Manifest, plugins: PluginManager, target: str | None) -> tuple[str, str, str]:
    """Return the backend, device and precision to run with: as asked, as tuned, or the first that reads the format."""
    wanted = parse_target(target or AUTO)
    if wanted.backend is not None:
        return wanted.backend, wanted.device or _device_of(manifest, wanted.backend), manifest.precision
    supports = plugins.supports(detect())
    names = sorted(supports, key=lambda name: (name != manifest.backend, name))
    readers = [
        (name, offer)
        for name in names
        for offer in supports[name].offers
        if manifest.format in offer.loads or (manifest.format == LIVE and offer.live)
    ]
    readers.sort(key=lambda pair: (pair[0] != manifest.backend, pair[1].device != device_type(manifest.device)))
    for name, offer in readers:
        same_place = (name, offer.device) == (manifest.backend, device_type(manifest.device))
        device = manifest.device if same_place else offer.device
        if name != manifest.backend:
            _say_what_runs_instead(manifest, name, supports.get(manifest.backend), plugins)
        return name, device, manifest.precision if manifest.precision in offer.precisions else FULL_PRECISION
    tuned = supports.get(manifest.backend)
    limits = [f"{item.reason} ({item.remedy})" for item in (tuned.limitations if tuned else ())]
    raise UnavailableError(
        f"artifact of {manifest.model.name!r}",
        f"it is {manifest.format!r} for backend {manifest.backend!r}, and no backend here loads that"
        + (f": {'; '.join(limits)}" if limits else ""),
        f"pip install optimum-{manifest.backend}",
    )


def _say_what_runs_instead(manifest: Manifest, name: str, tuned: Support | None, plugins: PluginManager) -> None:
    why = "has no device for it here"
    if tuned is None:
        why = next(
            (f"is {info.status}" for info in plugins.infos() if info.name == manifest.backend), "is not installed"
        )
    elif tuned.limitations:
        why = f"cannot: {tuned.limitations[0].reason}"
    warnings.warn(
        f"model {manifest.model.name!r} was tuned for backend {manifest.backend!r}, which {why}; {name!r} runs it "
        f"instead, for which it was neither compared nor measured: load(…, retune=True) does both, "
        f"load(…, target={name!r}) says that it is meant",
        TunedElsewhereWarning,
        stacklevel=5,
    )


def _say_what_computes_instead(manifest: Manifest, error: PrecisionError) -> None:
    warnings.warn(
        f"model {manifest.model.name!r} was tuned to compute in {manifest.precision}, and does so in {FULL_PRECISION} "
        f"here: {error.why}; that is no less exact, and was not measured: load(…, retune=True) does",
        TunedElsewhereWarning,
        stacklevel=4,
    )


def _device_of(manifest: Manifest, backend: str) -> str:
    return manifest.device if backend == manifest.backend else "cpu"
