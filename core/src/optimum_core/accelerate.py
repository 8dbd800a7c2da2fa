"""The verb: from any model to the fastest correct form that this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from optimum_core import __version__
from optimum_core import artifact as artifacts
from optimum_core.artifact import Manifest
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
from optimum_core.packing import Packer
from optimum_core.plan import AUTO, EXACT, Quantization, Target, Way, ways
from optimum_core.plugins import PluginManager, manager
from optimum_core.quantization import Wish, read_wish
from optimum_core.tune.history import History, shape_of
from optimum_core.types import Event, Hardware, Support
from optimum_core.verify import verify
from optimum_core.verify.carried import read_check

# What imports torch is imported where it is used: without torch, `accelerate` must say so and `load` must work.
if TYPE_CHECKING:
    from optimum_core.models.blueprint import Blueprint
    from optimum_core.tune.candidates import Entry
    from optimum_core.tune.evidence import Material
    from optimum_core.tune.search import Job, Tuned


def accelerate(
    model: Any,
    *,
    target: str = AUTO,
    task: str | None = None,
    precision: str | None = None,
    sample_inputs: Any = None,
    shapes: Sequence[Shape] | None = None,
    objective: str | None = None,
    budget: float | None = None,
    verify: bool = True,
    processor: Any = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    level: str | None = None,
    quantize: Any = None,
    calibration: Any = None,
    evaluate: Any = None,
    max_drop: float | str | None = None,
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
        precision: "fp32" (the default); or "bf16", "fp16" where a backend offers them; or "auto", which lets all of
            these compete, each within its stated tolerance. With `quantize`, of what is left in floats: by default,
            every one that is offered competes there.
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
        quantize: "int8", "int4", "nf4", "fp8" or "fp16": the machine's best scheme with such weights; or a scheme
            ("static-int8"), a preset ("avx512_vnni"), a recipe's YAML file, a mapping, or a `QuantizeConfig`.
        calibration: an iterable of texts, pictures, sounds or inputs by name, a `datasets.Dataset` or a `DataLoader`;
            a few hundred typical rows. One in four is kept from it, to compare with eager on.
        evaluate: what may not be lost: a function of the accelerated model that returns a number, more being better;
            labelled rows; or (metric, labelled rows), the metric being "accuracy", "f1", "matthews", "pearson" or
            "spearman". Without it, nearness to eager on rows that calibration did not see decides.
        max_drop: how much of it may be lost: 0.01 in its own units, or "1%" of the eager model's. 0.01 by default.
        options: for the backend named by `target`.
        progress: called with an `Event` as each stage begins and ends.
        cache_dir: instead of `OPTIMUM_CACHE_DIR`.

    Raises:
        SourceError: the model cannot be found, read or understood.
        OptionError, UnavailableError: what was asked for makes no sense, or is not here; before any work is done.
        EvaluationError: `evaluate` gives no number for the eager model; before anything is quantized.
        VerificationError: nothing that was built agrees with eager.
    """
    wish = read_wish(quantize, calibrated=calibration is not None)
    stated = wish.config if wish else None
    ask = Ask(
        target=target, task=task, precision=precision or EXACT, shapes=stated_shapes(shapes),
        objective=objective or (stated.objective if stated else None) or OBJECTIVES[0],
        budget=budget, verify=verify, level=level, wish=wish, rest=precision or AUTO, options=dict(options or {}),
    )  # fmt: skip
    hub.require_export_packages("accelerate()")
    plugins, hardware = manager(), detect()
    chosen = check(ask)
    material = _material(wish, calibration=calibration, evaluate=evaluate, max_drop=max_drop)
    supports = plugins.supports(hardware)
    if chosen.backend is not None:
        supports[chosen.backend] = plugins.support(chosen.backend, hardware)
    check_precision(ask.precision, supports)
    found = _ways(supports, chosen, ask)
    source = open_source(model, revision=revision, trust_remote_code=trust_remote_code, processor=processor)
    _require_samples(source, sample_inputs)
    work = _Work(
        ask=ask, target=chosen, source=source, ways=found, supports=supports, hardware=hardware, plugins=plugins,
        emit=progress or (lambda event: None), cache=Cache(Path(cache_dir) if cache_dir is not None else None),
        samples=sample_inputs, material=material,
    )  # fmt: skip
    return work.run()


def _material(wish: Wish | None, **passed: Any) -> Material | None:
    """The data that quantization is to use.

    Raises:
        OptionError: it is of no use, or there is none for a scheme that was asked for and needs some.
    """
    if wish is None:
        for name, value in passed.items():
            if value is not None:
                raise OptionError(name, "it is for quantization, and none was asked for", 'pass quantize="int8"')
        return None
    from optimum_core.tune.evidence import read_material

    material = read_material(passed["calibration"], passed["evaluate"], passed["max_drop"], wish.config)
    if wish.config is not None and wish.config.calibrates and not material.can_calibrate:
        raise OptionError(
            "calibration",
            f"{wish.config.name} finds ranges on typical inputs, and none were passed; made-up ones would be wrong",
            "pass calibration=, a few hundred texts or inputs; or use a scheme that needs none, such as 'dynamic-int8'",
        )
    return material


def _require_samples(source: Source, samples: Any) -> None:
    if samples is None and source.is_live and source.config is None:
        raise OptionError(
            f"model {source.name!r}",
            "a torch.nn.Module says nothing of what it takes",
            "pass sample_inputs={name: tensor, …} as for one ordinary call",
        )


def _ways(supports: Mapping[str, Support], target: Target, ask: Ask) -> tuple[Way, ...]:
    """The ways that were asked for, and the live model's to compare with."""
    quantization = Quantization(schemes=ask.wish.schemes, rest=ask.rest) if ask.wish else None
    asked = ways(supports, target, precision=ask.precision, level=ask.level, quantization=quantization)
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
            job = self._job(blueprint, Path(workshop), history)
            packer = self._packer(blueprint)
            quantizing = self._quantizing(job, packer) if self.material is not None else None
            tuned = floats = tune(job)
            if quantizing is not None:
                tuned = quantizing(floats)
            packer.write(tuned, directory)
        if self.target.backend is None:
            history.remember(floats.winner.entry.name, about=self.source.name)

    def _packer(self, blueprint: Blueprint) -> Packer:
        return Packer(
            source=self.source, plugins=self.plugins, versions=dict(_versions(self.supports)), hardware=self.hardware,
            options=self.ask.options, workload=self._workload(blueprint),
        )  # fmt: skip

    def _quantizing(self, job: Job, packer: Packer) -> Callable[[Tuned], Tuned]:
        """What goes on from the best unquantized model.

        The data is read and the eager model evaluated here and now: what is wrong with either shows before hours are
        spent.
        """
        from optimum_core.tune.quantizing import Quantizing

        assert self.material is not None and self.ask.wish is not None
        return Quantizing(
            wish=self.ask.wish,
            material=self.material,
            job=job,
            ways=tuple(way for way in self.ways if way.is_quantized),
            processor=self.source.processor,
            packer=packer,
        ).prepared()

    def _job(self, blueprint: Blueprint, workshop: Path, history: History) -> Job:
        from optimum_core.tune.search import Job
        from optimum_core.tune.stages import Builder

        auto = self.target.backend is None
        floats = tuple(way for way in self.ways if not way.is_quantized)
        choosable = {way.backend for way in floats} if auto else {str(self.target.backend)}
        if not any(way.backend in choosable for way in floats):  # it runs quantized models alone
            choosable = {way.backend for way in floats if way.is_live}
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

        floats = tuple(way for way in self.ways if not way.is_quantized)
        streams = (1, max(2, self.hardware.cpu.usable_cores)) if self.ask.objective == "throughput" else (1,)
        stated = self.ask.shapes is not None
        return tuple(entries(floats, streams=streams, won_before=won_before, stated=stated))


def _versions(supports: Mapping[str, Support]) -> Iterator[tuple[str, str]]:
    yield "optimum-core", __version__
    for name in sorted(supports):
        yield from supports[name].versions.items()
