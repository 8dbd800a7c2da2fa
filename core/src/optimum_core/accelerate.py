"""The verb: from any model to the fastest correct form that this machine can run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optimum_core import __version__
from optimum_core import artifact as artifacts
from optimum_core.artifact import LIVE, Manifest, ModelInfo
from optimum_core.artifact.plain import to_plain
from optimum_core.ask import OBJECTIVES, Ask, check, check_precision, stated_shapes
from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, OptionError
from optimum_core.hardware import detect
from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.measure.workload import Shape, WorkShape, workload
from optimum_core.model.accelerated import AcceleratedModel
from optimum_core.model.loading import open_model
from optimum_core.models import fingerprint, hub
from optimum_core.models.source import Source, open_source
from optimum_core.plan import AUTO, EXACT, Target, Way, ways
from optimum_core.plugins import PluginManager, manager
from optimum_core.tune.history import History, shape_of
from optimum_core.types import Event, Hardware, Support
from optimum_core.verify import verify
from optimum_core.verify.carried import read_check, write_check

# What imports torch is imported where it is used: without torch, `accelerate` must say so and `load` must work.
if TYPE_CHECKING:
    from optimum_core.models.blueprint import Blueprint
    from optimum_core.tune.candidates import Entry
    from optimum_core.tune.search import Job, Tuned


def accelerate(
    model: Any,
    *,
    target: str = AUTO,
    task: str | None = None,
    precision: str = EXACT,
    sample_inputs: Any = None,
    shapes: Sequence[Shape] | None = None,
    objective: str = OBJECTIVES[0],
    budget: float | None = None,
    verify: bool = True,
    processor: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    level: str | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Emit | None = None,
    cache_dir: str | Path | None = None,
) -> AcceleratedModel:
    """Take a model to the fastest form that is true to it on this machine.

    Args:
        model: a `PreTrainedModel`, a `torch.nn.Module` (with `sample_inputs`), a directory written by
            `save_pretrained`, or a hub id.
        target: "auto" measures what every installed backend offers here, the eager model included; or a backend, or
            "backend:device".
        task: what the model is for, where `config.architectures` does not say it.
        precision: "fp32"; or "bf16", "fp16" where a backend offers them; or "auto", which lets all of these compete,
            each within its stated tolerance.
        sample_inputs: one ordinary call's tensors, by name; needed for plain modules, derived otherwise.
        shapes: the workload to be fast at: (batch, sequence) pairs or mappings of axis names to lengths.
        objective: "latency" of one call, "throughput" of calls side by side, or "size" of the files.
        budget: seconds for building and checking; the likeliest candidates go first, and one that is true is always
            found where there is one. None: up to a minute, less for a model that is quick as it is.
        verify: False skips the comparison with eager; the artifact says so.
        processor: tokenizer or processor, where it does not lie beside the model.
        revision: branch, tag or commit, for a hub id.
        trust_remote_code: run Python code that comes with the model.
        level: one optimization level of the backend named by `target`, instead of those that compete by themselves.
        options: for the backend named by `target`.
        progress: called with an `Event` as each stage begins and ends.
        cache_dir: instead of `OPTIMUM_CACHE_DIR`.

    Raises:
        SourceError: the model cannot be found, read or understood.
        OptionError, UnavailableError: what was asked for makes no sense, or is not here; before any work is done.
        VerificationError: nothing that was built agrees with eager.
    """
    ask = Ask(
        target=target, task=task, precision=precision, shapes=stated_shapes(shapes), objective=objective,
        budget=budget, verify=verify, level=level, options=dict(options or {}),
    )  # fmt: skip
    hub.require_export_packages("accelerate()")
    plugins, hardware = manager(), detect()
    chosen = check(ask)
    supports = plugins.supports(hardware)
    if chosen.backend is not None:
        supports[chosen.backend] = plugins.support(chosen.backend, hardware)
    check_precision(precision, supports)
    found = _ways(supports, chosen, ask)
    source = open_source(model, revision=revision, trust_remote_code=trust_remote_code, processor=processor)
    _require_samples(source, sample_inputs)
    work = _Work(
        ask=ask, target=chosen, source=source, ways=found, supports=supports, hardware=hardware, plugins=plugins,
        emit=progress or (lambda event: None), cache=Cache(Path(cache_dir) if cache_dir is not None else None),
        samples=sample_inputs,
    )  # fmt: skip
    return work.run()


def _require_samples(source: Source, samples: Any) -> None:
    if samples is None and source.is_live and source.config is None:
        raise OptionError(
            f"model {source.name!r}",
            "a torch.nn.Module says nothing of what it takes",
            "pass sample_inputs={name: tensor, …} as for one ordinary call",
        )


def _ways(supports: Mapping[str, Support], target: Target, ask: Ask) -> tuple[Way, ...]:
    """The ways that were asked for, and the live model's to compare with."""
    asked = ways(supports, target, precision=ask.precision, level=ask.level)
    known = {(way.backend, way.device, way.precision) for way in asked if way.is_live}
    baseline = tuple(
        replace(way, levels=(None,))
        for way in ways(supports, Target())
        if way.is_live and (way.backend, way.device, way.precision) not in known
    )
    return (*baseline, *asked)


@dataclass(kw_only=True, slots=True)
class _Work:
    """One call of `accelerate` after its arguments were checked."""

    ask: Ask
    target: Target
    source: Source
    ways: tuple[Way, ...]
    supports: Mapping[str, Support]
    hardware: Hardware
    plugins: PluginManager
    cache: Cache
    emit: Emit
    samples: Any

    def run(self) -> AcceleratedModel:
        """From the cache where it is there and holds; else built, kept, and opened."""
        with watched(self.emit, "read", self.source.name):
            key = self._key()
        if (model := self._known(key)) is not None:
            return model
        waiting = Event(stage="wait", detail="another process accelerates this model")
        with self.cache.lock("model", key, on_wait=lambda: self.emit(waiting)):
            # Asked again: what another process made or mended while this one waited is not to be thrown away.
            if (model := self._known(key)) is not None:
                return model
            self.cache.discard("model", key)
            about = f"{self.source.name} for {self.ask.target}"
            directory = self.cache.build("model", key, self._make, describe=about)
            return self._open(artifacts.load(directory), directory)

    def _known(self, key: str) -> AcceleratedModel | None:
        known = self.cache.entry("model", key)
        return self._reopen(known) if known is not None else None

    def _machine(self) -> dict[str, Any]:
        return {
            "core": __version__,
            "hardware": to_plain(self.hardware, "cache key"),
            "versions": {name: dict(self.supports[name].versions) for name in sorted(self.supports)},
        }

    def _key(self) -> str:
        return content_key(
            {
                **self._machine(),
                "fingerprint": self.source.fingerprint,
                "companions": {name: fingerprint.of_file(path) for name, path in self.source.companions().items()},
                "ask": self.ask.question(),
                "samples": fingerprint.of_samples(self.samples),
                "processor": type(self.source.processor).__name__ if self.source.is_live else "",
            }
        )

    def _reopen(self, directory: Path) -> AcceleratedModel | None:
        """The cached answer, when its files are whole and a live model still computes what it did."""
        try:
            with watched(self.emit, "cache", f"{self.source.name} was accelerated before") as stage:
                manifest = artifacts.load(directory)
                if self.source.is_live and not self._still_true(manifest, directory):
                    stage.problem = "the model in memory computes something else now: it is done again"
                    return None
        except ArtifactError:
            return None
        return self._open(manifest, directory, from_cache=True)

    def _still_true(self, manifest: Manifest, directory: Path) -> bool:
        """A fingerprint does not see all of a live model (hooks, replaced methods): one call does."""
        from optimum_core.models.flat import eager_outputs

        module = self.source.module()
        kept = read_check(manifest, directory)
        now = verify(lambda inputs: eager_outputs(module, dict(inputs)), (kept,), manifest.outputs, precision=EXACT)
        return now.passed

    def _open(self, manifest: Manifest, directory: Path, *, from_cache: bool = False) -> AcceleratedModel:
        if manifest.report is not None:
            manifest = replace(manifest, report=replace(manifest.report, from_cache=from_cache))
        return open_model(manifest, directory, plugins=self.plugins, source=self.source)

    def _make(self, directory: Path) -> None:
        """Search, and write the winner's files and manifest."""
        from optimum_core.models.blueprint import describe
        from optimum_core.tune.search import tune

        with watched(self.emit, "describe", f"inputs and outputs of {self.source.name}"):
            blueprint = describe(
                self.source.module(),
                name=self.source.name,
                processor=self.source.processor,
                samples=self.samples,
                task=self.ask.task,
            )
        self._workload(blueprint)  # shapes that the model cannot take are refused before anything is built
        history = History(
            cache=self.cache,
            machine=self._machine(),
            question={**self.ask.question(), "shape": shape_of(self.source.module())},
        )
        with TemporaryDirectory(prefix="optimum-") as workshop:
            tuned = tune(self._job(blueprint, Path(workshop), history))
            self._write(tuned, directory)
        if self.target.backend is None:
            history.remember(tuned.winner.entry.name, about=self.source.name)

    def _job(self, blueprint: Blueprint, workshop: Path, history: History) -> Job:
        from optimum_core.tune.search import Job
        from optimum_core.tune.stages import Builder

        auto = self.target.backend is None
        choosable = {way.backend for way in self.ways} if auto else {str(self.target.backend)}
        builder = Builder(
            source=self.source, plugins=self.plugins, supports=self.supports, hardware=self.hardware, cache=self.cache,
            workshop=workshop, options={str(self.target.backend): self.ask.options}, emit=self.emit,
        )  # fmt: skip
        return Job(
            source=self.source,
            blueprint=blueprint,
            entries=self._entries(history.won_before() if auto else ()),
            workload=self._workload,
            builder=builder,
            plugins=self.plugins,
            choosable=frozenset(choosable),
            exact=not auto or self.ask.shapes is not None,
            verify=self.ask.verify,
            objective=self.ask.objective,
            budget=self.ask.budget,
            decided=history.decided() if auto else None,
            emit=self.emit,
        )

    def _workload(self, blueprint: Blueprint) -> tuple[WorkShape, ...]:
        return workload(self.ask.shapes, blueprint.inputs, blueprint.layout.limits)

    def _entries(self, won_before: tuple[str, ...]) -> tuple[Entry, ...]:
        from optimum_core.tune.candidates import entries

        streams = (1, max(2, self.hardware.cpu.usable_cores)) if self.ask.objective == "throughput" else (1,)
        stated = self.ask.shapes is not None
        return tuple(entries(self.ways, streams=streams, won_before=won_before, stated=stated))

    def _write(self, tuned: Tuned, directory: Path) -> None:
        winner = tuned.winner
        assert winner.artifact is not None
        for name in winner.artifact.files:
            _copy(winner.artifact.path / name, directory / name)
        for name, path in self.source.companions().items():
            if not (directory / name).exists():
                _copy(path, directory / name)
        self.source.save_companions(directory)
        write_check(directory, tuned.check)
        artifacts.write(directory, self._manifest(tuned))

    def _manifest(self, tuned: Tuned) -> Manifest:
        winner, blueprint, entry = tuned.winner, tuned.winner.blueprint, tuned.winner.entry
        assert winner.artifact is not None
        return Manifest(
            created_with=dict(_versions(self.supports)),
            task=blueprint.task,
            model=_model_info(self.source, blueprint),
            backend=entry.way.backend,
            device=entry.way.device,
            format=LIVE if entry.way.is_live else winner.artifact.format,
            precision=entry.way.precision,
            level=entry.level if entry.way.is_live else None,
            streams=entry.streams,
            prepared=tuple(shape.lengths for shape in self._workload(blueprint)) if entry.prepared else (),
            session_options=dict(self.ask.options),
            inputs=winner.artifact.inputs,
            outputs=winner.artifact.outputs,
            ignored_inputs=blueprint.ignored,
            steps=winner.artifact.steps,
            verified=winner.fidelity is not None and winner.fidelity.passed,
            hardware=self.hardware,
            model_files=winner.artifact.files,
            fidelity=winner.fidelity,
            report=tuned.report,
        )


def _copy(origin: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(origin, place)


def _model_info(source: Source, blueprint: Blueprint) -> ModelInfo:
    module = source.module()
    cls = type(module)
    return ModelInfo(
        name=source.name,
        fingerprint=source.fingerprint,
        class_name=cls.__name__ if hasattr(module, "config") else "",
        module=cls.__module__,
        output_class=blueprint.output_class,
        main_input=getattr(module, "main_input_name", blueprint.inputs[0].name),
        can_generate=False,
        dtype="float32",
    )


def _versions(supports: Mapping[str, Support]) -> Iterator[tuple[str, str]]:
    yield "optimum-core", __version__
    for name in sorted(supports):
        yield from supports[name].versions.items()
