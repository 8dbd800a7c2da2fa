"""Exports of a model's graphs: each is made once in a search, and kept in the cache for later ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from optimum_core.artifact.integrity import check_file, describe, locate
from optimum_core.artifact.manifest import FileEntry
from optimum_core.artifact.serialization import from_plain, to_plain
from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, OptimumError
from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.models.decoders.parts import Graph
from optimum_core.models.eager.calls import eager_outputs
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.plan import FULL_PRECISION, Way
from optimum_core.plugins import PluginManager
from optimum_core.types import Artifact, Event, ExportRequest, Step, Support

_RECORD = "export.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The record stored beside exported files, by which a cache hit is read."""

    files: tuple[str, ...]
    precision: str
    steps: tuple[Step, ...]
    entries: Mapping[str, FileEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exports:
    """The exports of one model.

    Attributes:
        options: returns the stated options of a backend that affect the files that it writes.
        made, failed: what was exported in this search, and what was refused, by key.
        behaviours: hashes of what the model computes, by those of its inputs.
    """

    source: Source
    plugins: PluginManager
    supports: Mapping[str, Support]
    cache: Cache
    options: Callable[[str], Mapping[str, Any]]
    emit: Emit
    made: dict[str, tuple[Path, Exported]]
    failed: dict[str, OptimumError]
    behaviours: dict[str, str] = field(default_factory=dict)

    def artifact(self, way: Way, route: str | None, graph: Graph) -> Artifact:
        """Return the export of a graph by a way's exporter and a route.

        Raises:
            OptimumError: the exporter refuses or fails; the same error for each further candidate.
        """
        assert way.exporter is not None and way.exported is not None
        key = self._key(way, route, graph)
        if key in self.failed:
            raise self.failed[key]
        detail = graph.title + f"{way.exported} by {way.exporter}" + (f", route {route}" if route else "")
        path, record = self.made.get(key) or self._export(way, route, graph, key, detail)
        self.made[key] = path, record
        self.cache.hold(path)
        return Artifact(
            format=way.exported,
            path=path,
            files=record.files,
            inputs=graph.interface.inputs,
            outputs=graph.interface.outputs,
            state=graph.state,
            precision=record.precision,
            steps=record.steps,
        )

    def _export(self, way: Way, route: str | None, graph: Graph, key: str, detail: str) -> tuple[Path, Exported]:
        """Return the export from the cache if it is there and intact; otherwise export and store it."""

        def make(directory: Path) -> None:
            made = self.plugins.export(self._request(way, route, graph, directory))
            entries = {name: describe(directory / name) for name in made.files}
            record = Exported(files=made.files, precision=made.precision, steps=made.steps, entries=entries)
            (directory / _RECORD).write_text(json.dumps(to_plain(record, detail)), encoding="utf-8")

        waiting = Event(stage="wait", detail="another process exports this model")
        try:
            with self.cache.lock("export", key, on_wait=lambda: self.emit(waiting)):
                if (found := self._kept(key, detail)) is not None:
                    return found
                self.cache.discard("export", key)
                with watched(self.emit, "export", detail):
                    path = self.cache.build("export", key, make, describe=f"{self.source.name}: {detail}")
        except OptimumError as error:
            self.failed[key] = error
            raise
        return path, _read(path)

    def _kept(self, key: str, detail: str) -> tuple[Path, Exported] | None:
        """Return an earlier export from the cache, or None if there is none or its files have changed."""
        path = self.cache.entry("export", key)
        if path is None:
            return None
        with watched(self.emit, "cache", detail) as event:
            try:
                record = _read(path)
                for name, entry in record.entries.items():
                    who = f"cache entry {path}"
                    check_file(locate(path, name, None, who), name, entry, who, deep=True)
            except ArtifactError as error:
                event.problem = f"{error.why}: it is done again"
                return None
        return path, record

    def _key(self, way: Way, route: str | None, graph: Graph) -> str:
        assert way.exporter is not None
        return content_key(
            {
                "fingerprint": self.source.fingerprint,
                "exporter": way.exporter,
                "format": way.exported,
                "route": route,
                "opset": way.opset,
                "part": graph.name,
                "inputs": to_plain(graph.interface.inputs, "cache key"),
                "outputs": to_plain(graph.interface.outputs, "cache key"),
                "state": to_plain(graph.state, "cache key") if graph.state is not None else None,
                "lengths": dict(graph.signature.layout.lengths),
                "options": to_plain(self.options(way.exporter), "cache key"),
                "behaviour": self._behaviour(graph.signature),
                "versions": dict(self.supports[way.exporter].versions),
            }
        )

    def _behaviour(self, signature: ModelSignature) -> str:
        """Return a hash of what a model in memory computes now, since its fingerprint sees neither hooks nor replaced
        methods."""
        if not self.source.in_memory:
            return ""
        inputs = signature.draw(Case(name="traced"))
        key = _hash_of(inputs)
        if key not in self.behaviours:
            self.behaviours[key] = _hash_of(eager_outputs(self.source.module(), inputs))
        return self.behaviours[key]

    def _request(self, way: Way, route: str | None, graph: Graph, directory: Path) -> ExportRequest:
        assert way.exporter is not None and way.exported is not None
        return ExportRequest(
            backend=way.exporter,
            source=self.source,
            task=graph.signature.task,
            format=way.exported,
            precision=FULL_PRECISION,
            samples=graph.samples(),
            inputs=graph.interface.inputs,
            outputs=graph.interface.outputs,
            state=graph.state,
            part=graph.name,
            output=directory,
            route=route,
            opset=way.opset,
            options=self.options(way.exporter),
        )


def _hash_of(arrays: Mapping[str, Any]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _read(path: Path) -> Exported:
    """Read the record beside exported files.

    Raises:
        ArtifactError: it is missing or altered.
    """
    try:
        return from_plain(json.loads((path / _RECORD).read_text(encoding="utf-8")), Exported)
    except (OSError, ValueError, msgspec.ValidationError) as error:
        raise ArtifactError(f"cache entry {path}", f"{_RECORD} cannot be read: {error}", "export it again") from error
