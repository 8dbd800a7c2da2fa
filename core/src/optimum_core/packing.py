"""Writing of the winning candidate to a directory: its files, the model's companion files, and the manifest."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optimum_core.artifact as artifacts
from optimum_core.artifact import LIVE, Manifest, ModelInfo, PartInfo
from optimum_core.errors import UnprovedWarning
from optimum_core.measure.workload import WorkShape
from optimum_core.models.data.plain_reading import reads_alike
from optimum_core.models.inputs.facts import main_input_of
from optimum_core.models.inputs.user_samples import plain_defaults, positional
from optimum_core.models.sources import resaved_files
from optimum_core.models.sources.companions import licence_of
from optimum_core.models.sources.source import Source
from optimum_core.plan import FLOATS, FULL_PRECISION
from optimum_core.plugins import PluginManager
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.opening import named_after
from optimum_core.types import Hardware, Report
from optimum_core.verify.carried_call import write_check

# Modules that import torch are imported where used: without torch, `accelerate` must report it and `load` must work.
if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature
    from optimum_core.search.candidate import Candidate
    from optimum_core.search.context import SearchResult

#: Values of configurations that are whole numbers or words.
_SETTINGS = ("pad_token_id", "problem_type", "max_position_embeddings", "n_positions", "max_seq_len")


@dataclass(frozen=True, kw_only=True, slots=True)
class Packer:
    """Writer of manifests and directories for the candidates of one source.

    Attributes:
        versions: versions of the packages that made the candidates, by distribution.
        options: session options of the target's backend.
        workload: the shapes that a prepared session is prepared for.
    """

    source: Source
    plugins: PluginManager
    versions: Mapping[str, str]
    hardware: Hardware
    options: Mapping[str, Any]
    workload: tuple[WorkShape, ...]

    def write(self, result: SearchResult, directory: Path) -> None:
        """Write the winner's files and manifest to a directory."""
        artifact = result.winner.artifact
        assert artifact is not None
        for name in artifact.files:
            _copy(artifact.path / name, directory / name)
        for part, own in artifact.parts.items():
            for name in own.files:
                _copy(own.path / name, directory / part / name)
        self.write_companions(directory)
        write_check(directory, result.check)
        manifest = self.manifest(result.winner, result.report)
        meanings = resaved_files.meanings_of(self.source, directory)
        alike = reads_alike(directory, {spec.name for spec in manifest.inputs})
        artifacts.write(directory, replace(manifest, meanings=meanings, reads_alike=alike))

    def write_companions(self, directory: Path) -> None:
        """Write configuration, tokenizer and processor files, except those that the directory has already."""
        for name, path in self.source.companions().items():
            if not (directory / name).exists():
                _copy(path, directory / name)
        self.source.save_companions(directory)

    def _precision(self, asked: str) -> str:
        """Return the precision of the arithmetic: that of a graph which was given, unless another was asked for."""
        held = self.source.precision
        return held if held in FLOATS and asked == FULL_PRECISION else asked

    def _quantized(self) -> str | None:
        """Return the scheme by which a graph that was given is quantized; None: it is not."""
        return self.source.precision if self.source.is_quantized else None

    def present(self, candidate: Candidate, directory: Path) -> AcceleratedModel:
        """Return an open candidate as `accelerate` would, with its companion files in `directory`."""
        assert candidate.session is not None
        manifest = self.manifest(candidate, None)
        cls = named_after(manifest.model.class_name)
        return cls(manifest, directory, candidate.session, plugins=self.plugins, source=self.source)

    def manifest(self, candidate: Candidate, report: Report | None) -> Manifest:
        """Return the manifest of a candidate."""
        artifact, signature, spec = candidate.artifact, candidate.signature, candidate.spec
        assert artifact is not None
        return Manifest(
            created_with=dict(self.versions),
            task=signature.task,
            model=model_info(self.source, signature),
            backend=spec.way.backend,
            device=spec.way.device,
            format=LIVE if spec.way.is_eager else artifact.format,
            precision=self._precision(spec.way.precision),
            quantized=spec.config.name if spec.config else self._quantized(),
            level=spec.level if spec.way.is_eager else None,
            streams=spec.streams,
            prepared=tuple(shape.lengths for shape in self.workload) if spec.prepared else (),
            session_options=dict(self.options),
            inputs=artifact.inputs,
            outputs=artifact.outputs,
            axes=signature.ranges,
            ignored_inputs=signature.ignored,
            steps=artifact.steps,
            verified=candidate.fidelity is not None and candidate.fidelity.passed,
            hardware=self.hardware,
            model_files=artifact.files,
            parts={name: PartInfo.of(part, f"{name}/") for name, part in artifact.parts.items()},
            fidelity=candidate.fidelity,
            report=report,
        )


def _copy(origin: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, place)


def model_info(source: Source, signature: ModelSignature) -> ModelInfo:
    """Return the manifest's description of the model itself."""
    module = source.module()
    cls = type(module)
    inputs = {spec.name for spec in signature.inputs}
    defaults = plain_defaults(module) if source.format is None else {}
    return ModelInfo(
        name=source.name,
        fingerprint=source.fingerprint,
        class_name=cls.__name__ if hasattr(module, "config") else "",
        module=cls.__module__,
        structure=signature.structure,
        returns_tuple=getattr(source.config, "return_dict", True) is False,
        positional=positional(module) if source.format is None else None,
        defaults={name: value for name, value in defaults.items() if name not in inputs},
        main_input=main_input_of(module, signature.inputs[0].name),
        can_generate=signature.decoder is not None,
        dtype="float32",
        has_original=source.format is None,
        licence=licence_of(source.described_in),
        settings=settings_of(source.config),
    )


def settings_of(config: Any) -> dict[str, Any]:
    """Return the values of a configuration that are used without transformers, whose classes have defaults for them."""
    if config is None:
        return {}
    values = {name: getattr(config, name, None) for name in _SETTINGS}
    found = {name: value for name, value in values.items() if value is None or isinstance(value, int | str)}
    labels = getattr(config, "id2label", None)
    return {**found, "id2label": {str(number): str(label) for number, label in (labels or {}).items()}}


def warn_of_limits(manifest: Manifest) -> None:
    """Warn where the export took one side of a data-dependent branch, as no other could be made, and where the eager
    model does what no export does: it answers otherwise after other calls, or with gradients, changes its inputs, or
    raises for some values or lengths."""
    for limit in _limits(manifest):
        warnings.warn(f"{manifest.model.name}: {limit}", UnprovedWarning, stacklevel=5)


def _limits(manifest: Manifest) -> Iterator[str]:
    places = [place for step in manifest.steps for place in step.branches]
    if places:
        yield (
            f"values decide at {', '.join(places[:3])}, and the export took one side for all of them: right for inputs "
            "like those it was traced with; accelerate(…, target='torch') is right for all"
        )
    if (report := manifest.report) is None:
        return
    if report.remembers:
        yield (
            "eager keeps a state between calls (a counter, a buffer, …), and what it answers depends on earlier ones; "
            "this model answers every call as eager does its first; accelerate(…, target='torch') keeps the state"
        )
    if report.minds_gradients:
        yield (
            "eager answers otherwise while gradients are recorded; this model answers as eager does under "
            "torch.no_grad(), so compare it with eager there"
        )
    if report.inputs_left:
        yield f"eager changes its inputs in place ({', '.join(report.inputs_left)}); this model leaves them as they are"
    if report.checks_left_out:
        yield (
            f"eager raises for some values or lengths, by the checks at {', '.join(report.checks_left_out[:3])}; this "
            "model makes no such checks, and may answer what eager refuses; accelerate(…, target='torch') makes them"
        )
