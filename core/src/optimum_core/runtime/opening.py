"""Opening of a model from its manifest: the choice of backend, device and precision, and the session."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimum_core.artifact import LIVE, Manifest
from optimum_core.errors import PrecisionError, SessionError, TunedElsewhereWarning, UnavailableError
from optimum_core.generation.model_session import open_session
from optimum_core.hardware import detect
from optimum_core.plan import AUTO, FULL_PRECISION, parse_target
from optimum_core.plugins import PluginManager
from optimum_core.runtime.absent_device import AbsentDeviceSession, why_absent
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.pickling import Opening
from optimum_core.types import Session, SessionRequest
from optimum_core.types.requests import concurrent
from optimum_core.types.support import Offer, device_type


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

    Raises:
        SessionError: that backend does not open it.
        UnavailableError: that backend is not here, and no other one opens it.
    """
    refused: dict[str, SessionError] = {}
    opener = _Opener(manifest=manifest, directory=directory, plugins=plugins, source=source, is_stated=is_stated)
    for place in _places(manifest, plugins, target):
        try:
            model = opener.open(place, Opening(target=target, options=options))
        except SessionError as error:
            if not place.stands_in:
                raise
            refused[place.backend] = error
            continue
        if place.stands_in:
            _say_what_runs_instead(manifest, place.backend, plugins)
        return model
    raise _nothing_opens(manifest, plugins, refused)


@dataclass(frozen=True, slots=True)
class _Place:
    """A backend that may run an artifact, with device and precision.

    Attributes:
        stands_in: it was tuned for another backend, which is not here.
    """

    backend: str
    device: str
    precision: str
    stands_in: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opener:
    """Opener of one artifact in several places; `is_stated` as in `open_model`."""

    manifest: Manifest
    directory: Path
    plugins: PluginManager
    source: Any
    is_stated: bool

    def open(self, place: _Place, opening: Opening) -> AcceleratedModel:
        """Return the model in one place.

        Raises:
            OptimumError: it does not open there.
        """
        session, precision = self._session(place, opening.options)
        cls = named_after(self.manifest.model.class_name)
        opening = replace(opening, precision=precision)
        return cls(self.manifest, self.directory, session, plugins=self.plugins, source=self.source, opening=opening)

    def _session(self, place: _Place, options: Mapping[str, Any] | None) -> tuple[Session, str]:
        """Return a session, and the precision that it computes in."""
        manifest, artifact = self.manifest, self.manifest.artifact(self.directory)
        if (absence := why_absent(self.plugins.supports(detect()).get(place.backend), place.device)) is not None:
            why, remedy = absence
            absent = AbsentDeviceSession(
                backend=place.backend, device=place.device, inputs=artifact.inputs, outputs=artifact.outputs, why=why,
                remedy=remedy,
            )  # fmt: skip
            return absent, place.precision
        asked = SessionRequest(
            backend=place.backend,
            artifact=artifact,
            device=place.device,
            hardware=detect(),
            precision=place.precision,
            level=manifest.level,
            streams=concurrent(manifest.streams),
            shapes=manifest.prepared,
            source=self.source,
            options=_options(manifest, place.backend) if options is None else options,
        )
        try:
            return open_session(self.plugins, asked), place.precision
        except PrecisionError as error:
            if self.is_stated or place.precision == FULL_PRECISION:
                raise
            _say_what_computes_instead(manifest, error)
            return open_session(self.plugins, replace(asked, precision=FULL_PRECISION)), FULL_PRECISION


def _options(manifest: Manifest, backend: str) -> Mapping[str, Any]:
    """Return the manifest's session options, which only the backend that it was tuned for understands."""
    return manifest.session_options if backend == manifest.backend else {}


def _places(manifest: Manifest, plugins: PluginManager, target: str | None) -> list[_Place]:
    """Return where it may run: as asked, or as tuned, alone; or else wherever its format is read."""
    wanted = parse_target(target or AUTO)
    if wanted.backend is not None:
        device = wanted.device or _device_of(manifest, wanted.backend)
        return [_Place(wanted.backend, device, manifest.precision)]
    supports = plugins.supports(detect())
    readers = [
        (name, offer)
        for name, support in sorted(supports.items())
        for offer in support.offers
        if manifest.format in offer.loads or (manifest.format == LIVE and offer.live)
    ]

    def rank(reader: tuple[str, Offer]) -> tuple[bool, bool, bool]:
        """Put what it was tuned for first, and what stands in for it and only builds for other machines last."""
        name, offer = reader
        stands_in = name != manifest.backend
        return stands_in, stands_in and offer.proof != "device", offer.device != device_type(manifest.device)

    readers.sort(key=rank)
    found = []
    for name, offer in readers:
        same_place = (name, offer.device) == (manifest.backend, device_type(manifest.device))
        device = manifest.device if same_place else offer.device
        precision = manifest.precision if manifest.precision in offer.precisions else FULL_PRECISION
        found.append(_Place(name, device, precision, stands_in=name != manifest.backend))
    return found[:1] if found and not found[0].stands_in else found


def _nothing_opens(manifest: Manifest, plugins: PluginManager, refused: Mapping[str, SessionError]) -> UnavailableError:
    tuned = plugins.supports(detect()).get(manifest.backend)
    reasons = [f"{item.reason} ({item.remedy})" for item in (tuned.limitations if tuned else ())]
    reasons += [f"{name} reads that format, and not this file: {error.why}" for name, error in refused.items()]
    return UnavailableError(
        f"artifact of {manifest.model.name!r}",
        f"it is {manifest.format!r} for backend {manifest.backend!r}, and no backend here loads that"
        + (f": {'; '.join(reasons)}" if reasons else ""),
        f"pip install optimum-{manifest.backend}",
    )


def _say_what_runs_instead(manifest: Manifest, name: str, plugins: PluginManager) -> None:
    why, tuned = "has no device for it here", plugins.supports(detect()).get(manifest.backend)
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
        stacklevel=4,
    )


def _say_what_computes_instead(manifest: Manifest, error: PrecisionError) -> None:
    warnings.warn(
        f"model {manifest.model.name!r} was tuned to compute in {manifest.precision}, and does so in {FULL_PRECISION} "
        f"here: {error.why}; that is no less exact, and was not measured: load(…, retune=True) does",
        TunedElsewhereWarning,
        stacklevel=6,
    )


def _device_of(manifest: Manifest, backend: str) -> str:
    return manifest.device if backend == manifest.backend else "cpu"
