"""The pipeline behind `accelerate`, with checked arguments: open a cached model, or search, write and open one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import optimum_core.artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.serialization import to_plain
from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, OptionError, UnavailableError
from optimum_core.measure.stopwatch import Emit, watched
from optimum_core.measure.workload import Limits, WorkShape, signature_workload, workload
from optimum_core.models import fingerprint
from optimum_core.models.eager.threads import fitting_threads
from optimum_core.models.sources.checkpoint import is_double
from optimum_core.models.sources.companions import licence_of
from optimum_core.models.sources.source import Source
from optimum_core.packing import Packer, warn_of_limits
from optimum_core.plan import DOUBLE, FLOATS, FULL_PRECISION, Way, stateful_ways, ways
from optimum_core.plugins import PluginManager
from optimum_core.request import AccelerateRequest
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.opening import open_model
from optimum_core.search.history import History, shape_of, why_again
from optimum_core.types import Event, Hardware, Support
from optimum_core.verify import verify
from optimum_core.verify.carried_call import read_check

# Modules that import torch are imported where used: without torch, `accelerate` must report it and `load` must work.
if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature
    from optimum_core.search.budget import Budget
    from optimum_core.search.context import SearchContext, SearchResult
    from optimum_core.search.quantized.setup import QuantizationSetup
    from optimum_core.search.spec import CandidateSpec
    from optimum_core.search.tower_search import TowerSearch

#: Share of a stated budget that the search among unquantized models may take where the model is to be quantized too.
_UNQUANTIZED_SHARE = 0.4


@dataclass(kw_only=True, slots=True)
class Pipeline:
    """One call of `accelerate`.

    Attributes:
        version: the version of optimum-core.
        ways: those that were asked for, and the eager model's; of a model that generates, those that keep its cache.
    """

    version: str
    request: AccelerateRequest
    source: Source
    ways: tuple[Way, ...]
    supports: Mapping[str, Support]
    hardware: Hardware
    plugins: PluginManager
    cache: Cache
    emit: Emit
    _invalid_inode: int | None = None  # of a cached result that was found to be no longer valid
    _budget: Budget = field(init=False)
    _generates: bool = False
    _ways_as_asked: tuple[Way, ...] = ()  # towers take these: they keep no cache
    _towers: TowerSearch | None = None

    def run(self) -> AcceleratedModel:
        """Return the cached model where it is still valid; else build, cache and open one."""
        from optimum_core.search.budget import Budget
        from optimum_core.turns import one_at_a_time

        self._budget = Budget.of(self.request.budget)
        with watched(self.emit, "read", self.source.name):
            key = self._key()
        if (model := self._known(key)) is not None:
            return model
        waiting = Event(stage="wait", detail="another process accelerates this model")
        queued = Event(stage="wait", detail="another thread of this process accelerates a model")
        with (
            one_at_a_time(lambda: self.emit(queued)) as waited,
            self.cache.lock("model", key, on_wait=lambda: self.emit(waiting)),
        ):
            self._budget = Budget.of(self.request.budget) if waited else self._budget
            # Checked again: another process may have built or repaired the entry while this one waited.
            if (model := self._known(key)) is not None:
                return model
            self.cache.discard("model", key)
            made = self.cache.build("model", key, self._make, describe=f"{self.source.name} for {self.request.target}")
            return self._open(artifacts.load(made), made)

    def _known(self, key: str) -> AcceleratedModel | None:
        """Return the cached model where it is still valid; an entry found invalid is not checked twice."""
        if (known := self.cache.entry("model", key)) is None:
            return None
        node = known.stat().st_ino if known.is_dir() else 0
        if node == self._invalid_inode:
            return None
        model = self._reopen(known)
        self._invalid_inode = node if model is None else None
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
                **self.request.cache_key(),
                "fingerprint": self.source.fingerprint,
                "licence": licence_of(self.source.described_in),
                "companions": {name: fingerprint.of_file(path) for name, path in self.source.companions().items()},
                "processor": fingerprint.of_processor(self.source.passed_processor),
            }
        )

    def _reopen(self, directory: Path) -> AcceleratedModel | None:
        """Return the cached model if its files are intact and a model in memory still computes what it did."""
        try:
            with watched(self.emit, "cache", f"{self.source.name} was accelerated before") as stage:
                manifest = artifacts.load(directory)
                if why := why_again(manifest.report, self.request.search_budget):
                    stage.problem = why
                    return None
                if self.source.in_memory and not self._still_true(manifest, directory):
                    stage.problem = "the model in memory computes something else now: it is done again"
                    return None
        except ArtifactError:
            return None
        model = self._open(manifest, directory, from_cache=True)
        return model if self._promise_still_kept(model) else None

    def _promise_still_kept(self, model: AcceleratedModel) -> bool:
        if self.request.data is None:
            return True
        from optimum_core.search.quantized.kept_promise import still_kept

        if still_kept(model, self.request.data.function, self.emit):
            return True
        model.close()
        return False

    def _still_true(self, manifest: Manifest, directory: Path) -> bool:
        """Whether one call gives the recorded outputs, of the recorded types: a fingerprint does not see all that a
        module may depend on, such as what it imports while it runs."""
        from optimum_core.models.eager.calls import eager_outputs

        recorded, run = read_check(manifest, directory), partial(eager_outputs, self.source.module())
        try:
            if any(array.dtype != recorded.outputs[name].dtype for name, array in run(recorded.inputs).items()):
                return False
            return verify(run, (recorded,), manifest.outputs, precision=FULL_PRECISION).passed
        except Exception:  # noqa: BLE001 - code of the model's; it is described anew, and its error raised there
            return False

    def _open(self, manifest: Manifest, directory: Path, *, from_cache: bool = False) -> AcceleratedModel:
        if manifest.report is not None:
            manifest = replace(manifest, report=replace(manifest.report, from_cache=from_cache))
        warn_of_limits(manifest)
        self.cache.hold(directory)
        return open_model(manifest, directory, plugins=self.plugins, source=self.source)

    @fitting_threads()
    def _make(self, directory: Path) -> None:
        """Search, and write the winner's files and manifest."""
        from optimum_core.models.signatures.signature import describe

        if self.request.data is not None and self.source.is_quantized:
            raise OptionError("quantize", f"{self.source.name} is quantized already", "leave it out")
        with watched(self.emit, "describe", f"inputs and outputs of {self.source.name}"):
            signature = describe(
                self.source.module(),
                name=self.source.name,
                processor=self.source.processor,
                samples=self._samples(),
                task=self.request.task or self.source.task,
            )
            self.source.check_outputs(signature)
            if self.request.verify:
                self.source.compare_with_original(signature)
        signature = self._as_decoder(signature)
        self._budget.size = self.source.size()
        self._workload(signature)  # shapes that the model cannot take are refused before anything is built
        history = History(
            cache=self.cache,
            machine=self._machine(),
            question={
                **self.request.question(),
                "held": self.source.held_in,
                "shape": shape_of(self.source.module()),
                "generates": self._generates,
            },
        )
        with TemporaryDirectory(prefix="optimum-") as workshop:
            context = self._context(signature, Path(workshop), history)
            packer = self._packer(signature)
            packer.write(self._search(context, packer, history), directory)

    def _as_decoder(self, signature: ModelSignature) -> ModelSignature:
        """Return the signature of a model that generates, where it is one and a backend keeps its cache; with it, only
        ways that keep a cache compete."""
        from optimum_core.models.decoders.description import NotADecoderError
        from optimum_core.models.decoders.encoder_decoder_description import as_generating
        from optimum_core.models.generators import describe_decoder, note_one_pass
        from optimum_core.search.quantized.setup import why_in_one_pass

        stateful = stateful_ways(self.ways, self.supports)
        backend = self.request.target.backend
        able = [way for way in stateful if (way.backend == backend if backend else not way.is_eager)]
        if not able or self._is_cross_build or self.source.format is not None:
            return signature
        try:
            decoder = describe_decoder(self.source.module(), signature)
        except NotADecoderError as error:
            note_one_pass(self.source, str(error))
            return signature
        if (why := why_in_one_pass(decoder, self.request.goal, self.request.data)) is not None:
            note_one_pass(self.source, why)
            return signature
        if self.request.goal is not None and not any(way.is_quantized for way in stateful):
            raise self._no_scheme()
        self._ways_as_asked, self.ways, self._generates = self.ways, stateful, True
        return replace(as_generating(self.source.module(), signature, decoder), decoder=decoder)

    def _no_scheme(self) -> UnavailableError:
        """Return the error for schemes of models without a cache, asked for one that generates."""
        asked = ", ".join(self.request.quantization.schemes) if self.request.quantization else ""
        offers = [offer for support in self.supports.values() for offer in support.offers]
        known = dict.fromkeys(scheme for offer in offers if offer.stateful for scheme in offer.stateful_schemes)
        return UnavailableError(
            f"quantize {asked}",
            f"{self.source.name} generates, and no backend here has this scheme for a model with its cache",
            f"use one of: {', '.join(known)}; or 'int8' or 'int4'" if known else "leave it out",
        )

    @property
    def _is_cross_build(self) -> bool:
        """Whether the target is another machine, so that nothing is measured."""
        return any(way.proof != "device" for way in self.ways)

    def _search(self, context: SearchContext, packer: Packer, history: History) -> SearchResult:
        """Search among unquantized models and, if quantization was asked for, continue from the winner to quantized."""
        from optimum_core.search.candidate_search import search

        if self._is_cross_build:
            return self._cross_build(context, packer)
        # Errors in the data, or in the evaluation of the eager model, are raised before hours are spent.
        quantize_from = self._quantization(context, packer).prepare() if self.request.goal is not None else None
        if quantize_from is not None and self._budget.stated:
            context = replace(context, budget=self._budget.share(_UNQUANTIZED_SHARE))
        result = search(context)
        if self._towers is not None:
            result = self._towers.noted(result)
        if self.request.target.backend is None and result.report.settled:
            history.remember(result.winner.spec, about=self.source.name, ended_at=result.report.ended_at)
        return quantize_from(result) if quantize_from is not None else result

    def _cross_build(self, context: SearchContext, packer: Packer) -> SearchResult:
        from optimum_core.search.cross_build import CrossBuild, cross_build
        from optimum_core.search.spec import specs_of

        data = self._quantization(context, packer).data() if self.request.goal is not None else None
        built = [way for way in self.ways if not way.is_eager and way.is_quantized == (data is not None)]
        on_target = tuple(way for way in built if way.device == built[0].device)
        context = replace(context, specs=tuple(specs_of(on_target)))
        return cross_build(CrossBuild(context=context, supports=self.supports, goal=self.request.goal, data=data))

    def _samples(self) -> Any:
        """Return the inputs of one call as passed, or as the source has them."""
        from optimum_core.models.inputs.processor import own_samples

        return own_samples(self.source) if self.request.samples is None else self.request.samples

    def _packer(self, signature: ModelSignature) -> Packer:
        return Packer(
            source=self.source,
            plugins=self.plugins,
            versions=dict(_versions(self.version, self.supports)),
            hardware=self.hardware,
            options=self.request.options,
            workload=self._workload(signature),
        )

    def _quantization(self, context: SearchContext, packer: Packer) -> QuantizationSetup:
        from optimum_core.search.quantized.setup import QuantizationSetup

        assert self.request.data is not None and self.request.goal is not None
        return QuantizationSetup(
            goal=self.request.goal,
            stated=self.request.data,
            context=context,
            budget=self._budget,
            ways=tuple(way for way in self.ways if way.is_quantized),
            processor=self.source.processor,
            packer=packer,
        )

    def _context(self, signature: ModelSignature, workshop: Path, history: History) -> SearchContext:
        from optimum_core.search.builder import Builder
        from optimum_core.search.context import SearchContext
        from optimum_core.search.references import References
        from optimum_core.search.tower_search import TowerSearch

        stated = self.request.shapes is not None
        auto = self.request.target.backend is None
        builder = Builder(
            source=self.source,
            plugins=self.plugins,
            supports=self.supports,
            hardware=self.hardware,
            cache=self.cache,
            workshop=workshop,
            options={str(self.request.target.backend): self.request.options},
            emit=self.emit,
            shapes=tuple(shape.lengths for shape in self._workload(signature)) if stated else (),
        )
        if signature.decoder is not None and signature.decoder.merge is not None:
            builder.towers = self._towers = TowerSearch(
                builder=builder, signature=signature, ways=self._ways_as_asked, plugins=self.plugins,
                budget=self._budget, verify=self.request.verify,
            )  # fmt: skip
        return SearchContext(
            source=self.source,
            signature=signature,
            specs=self._specs(self._unquantized_ways, history.won_before() if auto else ()),
            other_precisions=self._specs(self._other_precisions()),
            workload=self._workload,
            builder=builder,
            plugins=self.plugins,
            choosable=self._choosable(),
            may_restrict=not auto or stated,
            verify=self.request.verify,
            objective=self.request.objective,
            budget=self._budget,
            decided=history.decided(self.request.search_budget) if auto else None,
            held_to=self._held_to,
            references=References(source=self.source, emit=self.emit, budget=self._budget),
            usable_cores=self.hardware.cpu.usable_cores,
            emit=self.emit,
        )

    @property
    def _held_to(self) -> str | None:
        """The precision whose tolerance applies to every candidate; None: that of each one."""
        keeps_double = self.request.keeps_double and is_double(self.source.module())
        return DOUBLE if keeps_double else self.source.held_to

    @property
    def _unquantized_ways(self) -> tuple[Way, ...]:
        return tuple(way for way in self.ways if not way.is_quantized)

    def _choosable(self) -> frozenset[str]:
        """Return the backends that may win."""
        floats, target = self._unquantized_ways, self.request.target.backend
        found = {way.backend for way in floats} if target is None else {target}
        eager = {way.backend for way in floats if way.is_eager}
        if self.source.format is not None:  # eager is then a reference evaluator, too slow to be chosen
            found -= eager
        if not any(way.backend in found for way in floats):  # the target runs only quantized models
            found = eager
        return frozenset(found)

    def _other_precisions(self) -> tuple[Way, ...]:
        """Return the ways in fewer bits than were asked for."""
        if self.request.goal is not None or self._is_cross_build or self.source.format is not None:
            return ()
        others = tuple(name for name in FLOATS if name not in self.request.precisions(self.source.held_in))
        try:
            found = ways(self.supports, self.request.target, precision=others, level=self.request.level)
        except UnavailableError:  # none is offered
            return ()
        found = stateful_ways(found, self.supports) if self._generates else found
        return tuple(way for way in found if way.precision != FULL_PRECISION and way.proof == "device")

    def _workload(self, signature: ModelSignature) -> tuple[WorkShape, ...]:
        if signature.decoder is not None:
            return signature_workload(self.request.shapes, signature)
        limits = Limits.of(signature.ranges, signature.layout.limits)
        return workload(self.request.shapes, signature.inputs, limits)

    def _specs(self, ways: tuple[Way, ...], won_before: tuple[str, ...] = ()) -> tuple[CandidateSpec, ...]:
        from optimum_core.search.spec import specs_of, streams_of

        streams = streams_of(self.request.objective, self.hardware.cpu.usable_cores)
        return tuple(specs_of(ways, streams=streams, won_before=won_before, stated=self.request.shapes is not None))


def _versions(core: str, supports: Mapping[str, Support]) -> Iterator[tuple[str, str]]:
    yield "optimum-core", core
    for name in sorted(supports):
        yield from supports[name].versions.items()
