"""Building of one candidate in stages: export, quantize, transform, optimize. Stages that candidates share run once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from optimum_core.artifact.manifest import LIVE
from optimum_core.cache import Cache
from optimum_core.errors import OptimumError
from optimum_core.measure.stopwatch import watched
from optimum_core.models.decoders.parts import Graph, graphs_of, parts_of
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.plan import Way
from optimum_core.plan.offers import runs_on
from optimum_core.plugins import PluginManager
from optimum_core.search.exports import Exported, Exports
from optimum_core.search.spec import CandidateSpec
from optimum_core.types import (
    Artifact,
    Event,
    Hardware,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    Session,
    SessionRequest,
    StateSpec,
    Support,
    TensorSpec,
)
from optimum_core.types.requests import concurrent
from optimum_core.types.state import DECODER, MERGE

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """Callbacks for a backend that controls accuracy itself.

    Attributes:
        shortfall: returns by how much the metric of a session of that spec and artifact misses the promise.
        seconds: returns the time left.
    """

    shortfall: Callable[[CandidateSpec, Artifact, Session], float]
    seconds: Callable[[], float]


@dataclass(kw_only=True, slots=True)
class Builder:
    """Builder of artifacts and sessions from candidate specs.

    Attributes:
        options: by backend, as the user stated them.
        workshop: a directory for temporary files of the search; removed after it.
        calibration: batches that quantization finds ranges on, if any.
        shapes: the workload's shapes, if the user stated them.
        control: callbacks for backends that control accuracy, if there is a promise.
        towers: returns the towers that go beside the merge of a candidate, by the name of the part.
    """

    source: Source
    plugins: PluginManager
    supports: Mapping[str, Support]
    hardware: Hardware
    cache: Cache
    workshop: Path
    options: Mapping[str | None, Mapping[str, Any]] = field(default_factory=dict)
    emit: Callable[[Event], None] = lambda event: None
    calibration: Iterable[Mapping[str, Any]] | None = None
    shapes: tuple[Mapping[str, int], ...] = ()
    control: Control | None = None
    towers: Callable[[CandidateSpec], Mapping[str, Artifact]] | None = None
    _quantized: dict[tuple[Any, ...], Artifact | OptimumError] = field(default_factory=dict)
    _failed: dict[str, OptimumError] = field(default_factory=dict)
    _behaviours: dict[str, str] = field(default_factory=dict)
    _made: dict[str, tuple[Path, Exported]] = field(default_factory=dict)

    @property
    def _exports(self) -> Exports:
        return Exports(
            source=self.source,
            plugins=self.plugins,
            supports=self.supports,
            cache=self.cache,
            options=self._build_options,
            emit=self.emit,
            made=self._made,
            failed=self._failed,
            behaviours=self._behaviours,
        )

    def build(self, spec: CandidateSpec, signature: ModelSignature) -> Artifact:
        """Return the artifact that the spec's backend loads; for the eager model, one without files."""
        if spec.way.is_eager:
            return eager_artifact(signature)
        made = {graph.name: self._built(spec, graph) for graph in graphs_of(signature)}
        if MERGE in made and self.towers is not None:
            made |= self.towers(spec)
        return made[""] if "" in made else _whole(made, signature)

    def is_crash_prone(self, spec: CandidateSpec) -> bool:
        """Whether the backend says that its runtime ends the process for some models in this precision or scheme."""
        named = {spec.way.precision, spec.config.name if spec.config else ""}
        offers = self.supports[spec.way.backend].offers if spec.way.backend in self.supports else ()
        return any(named & {*offer.crash_prone} for offer in offers if runs_on(offer, spec.way.device))

    def for_tower(self, source: Any) -> Builder:
        """Return a builder for a tower of the model, which takes what this one exported before."""
        return replace(self, source=source, towers=None, shapes=(), _behaviours={})

    def _built(self, spec: CandidateSpec, graph: Graph) -> Artifact:
        way, level = spec.way, self._level(spec, graph)
        if graph.name == MERGE:
            return self._exports.artifact(self._merge_way(way), None, graph)
        artifact = self._exports.artifact(way, spec.route, graph)
        if spec.config is not None and (graph.part is None or graph.state is not None):
            artifact = _with_cache(self._quantize(artifact, spec, spec.config), spec.config.cache)
        for backend, _, _ in way.transforms:
            artifact = self._optimized(backend, artifact, way, None)
        return self._optimized(way.backend, artifact, way, level) if level else artifact

    def _merge_way(self, way: Way) -> Way:
        """Return the way by which the original's own code is kept, in a part beside graphs."""
        name, offer = next(
            (name, offer) for name, support in self.supports.items() for offer in support.offers if offer.live
        )
        return replace(way, exporter=name, exported=offer.exports[0], opset=None)

    def _level(self, spec: CandidateSpec, graph: Graph) -> str | None:
        """Return the level of a spec, or where that is for decoders alone and this is none, the backend's first."""
        if graph.part is None or graph.part.state is not None or spec.level is None:
            return spec.level
        offers = [offer for offer in self.supports[spec.way.backend].offers if spec.level in offer.stateful_levels]
        usual = [level for offer in offers for level in offer.levels if level is not None]
        return spec.level if spec.level in usual or not usual else usual[0]

    def before_last(self, spec: CandidateSpec, signature: ModelSignature) -> Artifact:
        """Return the input of the last transform of the spec's way, for machines that cannot run its output."""
        return self.build(replace(spec, way=replace(spec.way, transforms=spec.way.transforms[:-1])), signature)

    def session_request(
        self, spec: CandidateSpec, artifact: Artifact, shapes: Sequence[Mapping[str, int]] = ()
    ) -> SessionRequest:
        """Return the request that opens a session on an artifact, prepared for `shapes` if there are any."""
        way = spec.way
        return SessionRequest(
            backend=way.backend,
            artifact=artifact,
            device=way.device,
            hardware=self.hardware,
            precision=way.precision,
            level=spec.level if way.is_eager else None,
            streams=concurrent(spec.streams),
            shapes=tuple(shapes),
            source=self.source,
            options=self.options.get(way.backend, {}),
        )

    def size(self, artifact: Artifact) -> int:
        """Return the size of the artifact's files in bytes; for the eager model, of its weights."""
        if artifact.parts:
            return sum(map(self.size, artifact.parts.values()))
        if not artifact.files:
            return self.source.size()
        return sum((artifact.path / name).stat().st_size for name in artifact.files)

    def _build_options(self, backend: str) -> dict[str, Any]:
        """Return the stated options of a backend that affect the files that it writes."""
        taken = {name for offer in self.supports[backend].offers for name in offer.build_options}
        return {name: value for name, value in self.options.get(backend, {}).items() if name in taken}

    def _quantize(self, artifact: Artifact, spec: CandidateSpec, config: QuantizeConfig) -> Artifact:
        """Quantize once for all specs that run the same result; a failure is remembered for all of them too."""
        way, config = spec.way, _for_device(config, spec.way.device)
        assert way.quantizer is not None
        config = replace(config.recipe, cache=None)  # the same files
        key = (way.exporter, way.exported, spec.route, way.opset, way.quantizer, _lands(way), config)
        found = self._quantized.get(key)
        if found is None:
            try:
                found = self._quantize_anew(artifact, spec, config)
            except OptimumError as error:
                found = error
            self._quantized[key] = found
        if isinstance(found, OptimumError):
            raise found
        return found

    def _quantize_anew(self, artifact: Artifact, spec: CandidateSpec, config: QuantizeConfig) -> Artifact:
        way, control = spec.way, self.control if config.accuracy_control else None
        assert way.quantizer is not None
        output = Path(mkdtemp(dir=self.workshop))
        with watched(self.emit, "quantize", f"{artifact.format} to {config.name} by {way.quantizer}"):
            return self.plugins.quantize(
                QuantizeRequest(
                    backend=way.quantizer,
                    artifact=artifact,
                    config=config,
                    hardware=self.hardware,
                    output=output,
                    calibration=self.calibration,
                    source=self.source,
                    format=_lands(way),
                    shortfall=partial(control.shortfall, spec, artifact) if control else None,
                    seconds=control.seconds() if control else None,
                    options=self._build_options(way.quantizer),
                )
            )

    def _optimized(self, backend: str, artifact: Artifact, way: Way, level: str | None) -> Artifact:
        output = Path(mkdtemp(dir=self.workshop))
        with watched(self.emit, "optimize", f"{artifact.format} by {backend}" + (f", level {level}" if level else "")):
            return self.plugins.optimize(
                OptimizeRequest(
                    backend=backend,
                    artifact=artifact,
                    device=way.device,
                    precision=way.precision,
                    hardware=self.hardware,
                    output=output,
                    level=level,
                    shapes=self.shapes,
                    options=self.options.get(backend, {}),
                )
            )


def _with_cache(artifact: Artifact, cache: str | None) -> Artifact:
    """Return the artifact with this number format of its cache, if one is stated."""
    if cache is None:
        return artifact
    assert artifact.state is not None
    return replace(artifact, state=replace(artifact.state, cache=cache))


def _for_device(config: QuantizeConfig, device: str) -> QuantizeConfig:
    """Return the configuration with full range if the range is left open and the device is not the CPU: backends know
    only of the CPU where products overflow."""
    if device == "cpu" or config.reduce_range is not None or config.scheme == "weight-only":
        return config
    return replace(config, reduce_range=False)


def _lands(way: Way) -> str | None:
    """Return the format that the quantizer of a way writes."""
    return way.transforms[0][1] if way.transforms else way.format


def eager_artifact(signature: ModelSignature) -> Artifact:
    """Return the artifact of the eager model, with parts if it generates: specs of inputs and outputs, and no files."""
    parts = parts_of(signature, eager=True)
    made = {name: _eager_part(part.inputs, part.outputs, part.state) for name, part in parts.items()}
    return _whole(made, signature) if made else _eager_part(signature.inputs, signature.outputs, None)


def _eager_part(inputs: Specs, outputs: Specs, state: StateSpec | None) -> Artifact:
    return Artifact(format=LIVE, path=Path(), files=(), inputs=inputs, outputs=outputs, state=state)


def _whole(parts: Mapping[str, Artifact], signature: ModelSignature) -> Artifact:
    """Return the artifact of a generative model around those of its parts."""
    decoder = parts[DECODER]
    return Artifact(
        format=decoder.format,
        path=decoder.path,
        files=(),
        inputs=signature.inputs,
        outputs=signature.outputs,
        precision=decoder.precision,
        steps=decoder.steps,
        parts=parts,
    )
