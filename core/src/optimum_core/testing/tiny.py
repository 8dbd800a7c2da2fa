"""The tiny models of `kinds` with their eager outputs and requests to export them, for the tests of backends."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

from optimum_core.errors import UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.testing import decoders
from optimum_core.testing.kinds import tiny_module
from optimum_core.types import Artifact, ExportRequest, Fidelity, TensorSpec
from optimum_core.types.arrays import Arrays
from optimum_core.verify import ReferenceCase, Run, verify
from optimum_core.verify.reference import reference_cases


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tiny:
    """A tiny model, its signature, and its eager outputs for inputs that it was not traced with.

    Attributes:
        backend, format: of the requests to export it.
    """

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]
    backend: str = "onnx"
    format: str = "onnx"

    def request(self, output: Path, **changes: Any) -> ExportRequest:
        """Return a request to export it in fp32, with changes."""
        request = export_of(self.backend, self.format, self.source, self.signature, output)
        return dataclasses.replace(request, **changes)

    @property
    def module(self) -> Any:
        """The eager model, which is not to be changed."""
        return self.source.module()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Its inputs, as every export has them."""
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Its outputs, as every export has them."""
        return self.signature.outputs

    def draw(self, *, seed: int = 0, **lengths: int) -> Arrays:
        """Return inputs of stated lengths by axis, the others as traced; texts padded on the right."""
        return self.signature.draw(Case(name="drawn", lengths=lengths, seed=seed))

    def compare(self, run: Run, precision: str = "fp32") -> Fidelity:
        """Return the comparison of what a session gives for `cases` with the eager outputs."""
        return verify(run, self.cases, self.outputs, precision=precision)

    def batches(self, count: int = 6) -> list[Arrays]:
        """Return texts of several lengths to calibrate with, four rows in each."""
        return [self.draw(batch=4, sequence=8 + 4 * number, seed=100 + number) for number in range(count)]


@cache
def tiny(kind: str, *, backend: str = "onnx", format: str = "onnx", **changes: Any) -> Tiny:
    """Return the tiny model of a kind; the same object for equal arguments, and the same model for every backend.

    Args:
        kind, changes: as in `kinds.tiny_module`.
        backend, format: of the requests to export it.
    """
    return dataclasses.replace(_described_once(kind, **changes), backend=backend, format=format)


@cache
def _described_once(kind: str, **changes: Any) -> Tiny:
    return described(tiny_module(kind, **changes), kind)


def described(module: Any, name: str, *, backend: str = "onnx", format: str = "onnx") -> Tiny:
    """Return a model of any size with its signature, and its eager outputs for inputs that it was not traced with."""
    source = MemorySource(module)
    signature = describe(source.module(), name=name)
    cases = reference_cases(source.module(), signature)
    return Tiny(source=source, signature=signature, cases=cases, backend=backend, format=format)


def export(kind: str, format: str, output: Path, **fields: Any) -> Artifact:
    """Export a tiny model by the first backend here that writes the format.

    Args:
        kind: one of `decoders.KINDS`, which keeps its cache as state, or else of `kinds.KINDS`.
        output: an empty folder.
        fields: of the `ExportRequest`; the route is the backend's first.

    Raises:
        OptionError: it is no such kind.
        UnavailableError: no backend here exports to the format.
    """
    backend, routes = _exporter(format, stateful=kind in decoders.KINDS)
    fields = {"backend": backend, "route": next(iter(routes), None), **fields}
    if kind in decoders.KINDS:
        request = decoders.decoder_request(kind, backend, format, output)
        return manager().export(dataclasses.replace(request, **fields))
    return manager().export(tiny(kind).request(output, format=format, **fields))


def _exporter(format: str, *, stateful: bool) -> tuple[str, tuple[str, ...]]:
    """Return the first backend here that writes a format, and its routes."""
    for name, support in sorted(manager().supports(detect()).items()):
        for offer in support.offers:
            if format in offer.exports and (format in offer.stateful or not stateful):
                return name, (offer.stateful_routes or offer.routes) if stateful else offer.routes
    raise UnavailableError(f"format {format!r}", "no backend here exports to it", "install one that does")


def size(artifact: Artifact) -> int:
    """Return the size of an artifact's files in bytes."""
    return sum((artifact.path / name).stat().st_size for name in artifact.files)
