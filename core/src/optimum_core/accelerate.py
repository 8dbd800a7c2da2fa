"""The verb: from any model to the fastest correct form that this machine can run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_core import __version__
from optimum_core.ask import OBJECTIVES, Ask, check, check_level, check_precision, stated_options, stated_shapes
from optimum_core.cache import Cache
from optimum_core.errors import NoBackendWarning, OptionError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.measure.stopwatch import Emit
from optimum_core.measure.workload import Shape
from optimum_core.model.accelerated import AcceleratedModel
from optimum_core.models import hub, tasks
from optimum_core.models.source import Source, open_source
from optimum_core.plan import AUTO, EXACT, Quantization, Target, Way, ways
from optimum_core.plugins import manager
from optimum_core.quantization import Wish, read_wish
from optimum_core.termination import unwound_on_sigterm
from optimum_core.types import Support
from optimum_core.work import Work

# What imports torch is imported where it is used: without torch, `accelerate` must say so and `load` must work.
if TYPE_CHECKING:
    from optimum_core.tune.evidence import Material


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
            `save_pretrained`, a hub id, or an ONNX file, which may be quantized.
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
        budget=budget, verify=verify, level=level, wish=wish, rest=precision or AUTO, options=stated_options(options),
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
    _require_one_device(found, chosen)
    check_level(ask.level, chosen, supports)
    if chosen.backend is not None:
        plugins.check_options(chosen.backend, ask.options, hardware)
    source = open_source(model, revision=revision, trust_remote_code=trust_remote_code, processor=processor)
    if task is not None:
        tasks.check_fit(task, source.class_name, f"model {source.name!r}")
    if source.format is not None:
        found = _from(source.format, found)
    _require_samples(source, sample_inputs)
    work = Work(
        version=__version__,
        ask=ask,
        target=chosen,
        source=source,
        ways=found,
        supports=supports,
        hardware=hardware,
        plugins=plugins,
        cache=Cache(Path(cache_dir) if cache_dir is not None else None),
        emit=progress or (lambda event: None),
        samples=sample_inputs,
        material=material,
    )
    with unwound_on_sigterm():
        model = work.run()
    return _noted(model, plugins.missing_note() if chosen.backend is None else "")


def _noted(model: AcceleratedModel, note: str) -> AcceleratedModel:
    """The model, with a note in its report, and told of as a warning; without a note, as it is."""
    report = model.manifest.report
    if note and report is not None:
        warnings.warn(note, NoBackendWarning, stacklevel=3)
        model.manifest = replace(model.manifest, report=replace(report, notes=(*report.notes, note)))
    return model


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


def _require_one_device(found: tuple[Way, ...], target: Target) -> None:
    """Refuse to guess which of several absent machines is meant."""
    absent = tuple(dict.fromkeys(way.device for way in found if way.proof == "none"))
    if target.device is None and len(absent) > 1:
        raise OptionError(
            f"target {target.backend!r}",
            "there is no such device on this machine, and it builds for several others",
            f"name one: {', '.join(f'{target.backend}:{device}' for device in absent)}",
        )


def _from(given: str, found: tuple[Way, ...]) -> tuple[Way, ...]:
    """The ways that start from a format that the model is in already, each once.

    Raises:
        UnavailableError: there is none.
    """
    ways = tuple(
        replace(way, levels=(None,)) if way.is_live else replace(way, routes=(None,))
        for way in found
        if way.exported == given or (way.is_live and way.precision == EXACT)
    )
    if all(way.is_live for way in ways):
        raise UnavailableError(f"a model in {given}", "nothing that was asked for runs it", "ask for target='auto'")
    return ways


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
