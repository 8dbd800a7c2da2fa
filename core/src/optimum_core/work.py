"""One call of `accelerate` after its arguments were checked: from the cache, or searched, written and opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import optimum_core.artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.plain import to_plain
from optimum_core.ask import Ask
from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, OptionError
from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.measure.workload import WorkShape, workload
from optimum_core.model.accelerated import AcceleratedModel
from optimum_core.model.opening import open_model
from optimum_core.models import fingerprint
from optimum_core.models.source import Source
from optimum_core.packing import Packer
from optimum_core.plan import EXACT, Target, Way
from optimum_core.plugins import PluginManager
from optimum_core.tune.history import History, shape_of
from optimum_core.types import Event, Hardware, Support
from optimum_core.verify import verify
from optimum_core.verify.carried import read_check

# What imports torch is imported where it is used: without torch, `accelerate` must say so and `load` must work.
if TYPE_CHECKING:
    from optimum_core.models.blueprint import Blueprint
    from optimum_core.tune.candidates import Entry
    from optimum_core.tune.evidence import Material
    from optimum_core.tune.job import Job, Tuned
    from optimum_core.tune.quantizing import Quantizing


@dataclass(kw_only=True, slots=True)
class Work:
    """One call of `accelerate`.

    Attributes:
        version: optimum-core's own.
        ways: those that may be asked for, and the live model's.
        material: the data for quantization, where that was asked for.
        refused: the inode of a kept answer that was found not to hold.
    """

    version: str
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
    material: Material | None = None
    refused: int | None = None

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
        """The answer that is kept, where it still holds; one that was found not to hold is not asked about twice."""
        known = self.cache.entry("model", key)
        if known is None:
            return None
        node = known.stat().st_ino if known.is_dir() else 0
        if node == self.refused:
            return None
        model = self._reopen(known)
        self.refused = node if model is None else None
        return model

    def _machine(self) -> dict[str, Any]:
        return {
            "core": self.version,
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
                "material": self.material.question() if self.material else None,
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
        model = self._open(manifest, directory, from_cache=True)
        return model if self._still_kept(model) else None

    def _still_kept(self, model: AcceleratedModel) -> bool:
        """What a function of the user's says cannot be remembered: it is asked again."""
        promise = model.report.promise if model.report else None
        if promise is None or not promise.kept or self.material is None or self.material.function is None:
            return True
        from optimum_core.verify.promise import Called, keeps

        @dataclass(frozen=True)
        class Known:
            run: Any = None

            def model(self) -> AcceleratedModel:
                return model

        with watched(self.emit, "evaluate", "what was accelerated before") as stage:
            value = Called(function=self.material.function).value(Known())
            if keeps(promise, value):
                return True
            stage.problem = f"{promise.metric} is {value:.4g} now, and the promise is broken: it is done again"
        model.close()
        return False

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

        if self.material is not None and self.source.is_quantized:
            raise OptionError("quantize", f"{self.source.name} is quantized already", "leave it out")
        with watched(self.emit, "describe", f"inputs and outputs of {self.source.name}"):
            blueprint = describe(
                self.source.module(),
                name=self.source.name,
                processor=self.source.processor,
                samples=self._samples(),
                task=self.ask.task,
            )
        self._workload(blueprint)  # shapes that the model cannot take are refused before anything is built
        history = History(
            cache=self.cache,
            machine=self._machine(),
            question={**self.ask.question(), "shape": shape_of(self.source.module())},
        )
        with TemporaryDirectory(prefix="optimum-") as workshop:
            job = self._job(blueprint, Path(workshop), history)
            packer = self._packer(blueprint)
            tuned = self._elsewhere(job, packer) if self._is_elsewhere else self._here(job, packer, history)
            packer.write(tuned, directory)

    @property
    def _is_elsewhere(self) -> bool:
        """Whether what was asked for runs on another machine: then nothing is measured."""
        return any(way.proof != "device" for way in self.ways)

    def _here(self, job: Job, packer: Packer, history: History) -> Tuned:
        """Search among unquantized models, and where that was asked for, walk on from the winner."""
        from optimum_core.tune.search import tune

        # What is wrong with the data, or with the evaluation of the eager model, shows before hours are spent.
        go_on = self._quantizing(job, packer).prepared() if self.material is not None else None
        tuned = tune(job)
        if self.target.backend is None:
            history.remember(tuned.winner.entry.name, about=self.source.name)
        return go_on(tuned) if go_on is not None else tuned

    def _elsewhere(self, job: Job, packer: Packer) -> Tuned:
        from optimum_core.tune.candidates import entries
        from optimum_core.tune.elsewhere import Elsewhere, build_elsewhere

        evidence = self._quantizing(job, packer).evidence() if self.material is not None else None
        foreign = tuple(way for way in self.ways if not way.is_live and way.is_quantized == (evidence is not None))
        foreign = tuple(way for way in foreign if way.device == foreign[0].device)
        job = replace(job, entries=tuple(entries(foreign)))
        return build_elsewhere(Elsewhere(job=job, supports=self.supports, wish=self.ask.wish, evidence=evidence))

    def _samples(self) -> Any:
        """One call's inputs as stated, or as a file's own graph says."""
        return self.source.samples() if self.samples is None else self.samples

    def _packer(self, blueprint: Blueprint) -> Packer:
        return Packer(
            source=self.source,
            plugins=self.plugins,
            versions=dict(_versions(self.version, self.supports)),
            hardware=self.hardware,
            options=self.ask.options,
            workload=self._workload(blueprint),
        )

    def _quantizing(self, job: Job, packer: Packer) -> Quantizing:
        from optimum_core.tune.quantizing import Quantizing

        assert self.material is not None and self.ask.wish is not None
        return Quantizing(
            wish=self.ask.wish,
            material=self.material,
            job=job,
            ways=tuple(way for way in self.ways if way.is_quantized),
            processor=self.source.processor,
            packer=packer,
        )

    def _job(self, blueprint: Blueprint, workshop: Path, history: History) -> Job:
        from optimum_core.tune.job import Job
        from optimum_core.tune.stages import Builder

        auto = self.target.backend is None
        floats = tuple(way for way in self.ways if not way.is_quantized)
        choosable = {way.backend for way in floats} if auto else {str(self.target.backend)}
        if self.source.format is not None:  # the evaluator says what is right, and is nothing to run in earnest
            choosable -= {way.backend for way in floats if way.is_live}
        if not any(way.backend in choosable for way in floats):  # it runs quantized models alone
            choosable = {way.backend for way in floats if way.is_live}
        builder = Builder(
            source=self.source,
            plugins=self.plugins,
            supports=self.supports,
            hardware=self.hardware,
            cache=self.cache,
            workshop=workshop,
            options={str(self.target.backend): self.ask.options},
            emit=self.emit,
            shapes=tuple(shape.lengths for shape in self._workload(blueprint)) if self.ask.shapes is not None else (),
        )
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
            held_to="int8" if self.source.is_quantized else None,
            emit=self.emit,
        )

    def _workload(self, blueprint: Blueprint) -> tuple[WorkShape, ...]:
        return workload(self.ask.shapes, blueprint.inputs, blueprint.layout.limits)

    def _entries(self, won_before: tuple[str, ...]) -> tuple[Entry, ...]:
        from optimum_core.tune.candidates import entries

        floats = tuple(way for way in self.ways if not way.is_quantized)
        streams = (1, max(2, self.hardware.cpu.usable_cores)) if self.ask.objective == "throughput" else (1,)
        stated = self.ask.shapes is not None
        return tuple(entries(floats, streams=streams, won_before=won_before, stated=stated))


def _versions(core: str, supports: Mapping[str, Support]) -> Iterator[tuple[str, str]]:
    yield "optimum-core", core
    for name in sorted(supports):
        yield from supports[name].versions.items()
