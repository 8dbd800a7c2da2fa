"""`accelerate`: take any model to the fastest correct form that this machine can run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimum_core import __version__
from optimum_core.cache import Cache
from optimum_core.errors import NoBackendWarning, OptionError
from optimum_core.hardware import detect
from optimum_core.measure.stopwatch import Emit
from optimum_core.measure.workload import WorkloadShape
from optimum_core.models import pretrained, tasks
from optimum_core.models.eager.torch_modes import ordinary_modes, settings_kept
from optimum_core.models.silence import torch_muted
from optimum_core.models.sources.converted import ConvertedSource, converted_at
from optimum_core.models.sources.sentences.in_memory import sentence_class
from optimum_core.models.sources.source import Source, open_given
from optimum_core.pipeline import Pipeline
from optimum_core.plan import AUTO, FULL_PRECISION, Target, Way
from optimum_core.plugins import PluginManager, heavy_notes, manager
from optimum_core.request import AccelerateRequest, asked_ways, check_level, check_precision, read_request
from optimum_core.runtime.accelerated import AcceleratedModel
from optimum_core.runtime.converted import overflow_notes
from optimum_core.termination import unwound_on_termination
from optimum_core.turns import turn_lent
from optimum_core.types import Event, Hardware, Support


def accelerate(
    model: Any,
    *,
    target: str = AUTO,
    task: str | None = None,
    precision: str | None = None,
    sample_inputs: Any = None,
    shapes: Sequence[WorkloadShape] | None = None,
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
    """Return the fastest form of a model on this machine whose outputs agree with the eager model.

    Args:
        model: a `PreTrainedModel`, a `torch.nn.Module` (with `sample_inputs`), a directory written by
            `save_pretrained` or by sentence-transformers, a hub id, or an ONNX file, which may be quantized. For a
            `SentenceTransformer` or `CrossEncoder` an object of its class is returned, which runs the accelerated
            model and has it as `accelerated`.
        target: "auto" measures what every installed backend offers here, the eager model included; or a backend, or
            "backend:device".
        task: the model's task, where `config.architectures` does not name it.
        precision: "fp32"; or "bf16", "fp16" where a backend offers them; or "auto", which lets all of these compete,
            each within its stated tolerance. By default the model's own: fp32, and for weights held in 16 bits that
            type as well. With `quantize`, of the parts left in floats: by default, every one that is offered competes.
        sample_inputs: tensors of one ordinary call, by name; needed for plain modules, derived otherwise.
        shapes: the workload to optimize for: (batch, sequence) pairs or mappings of axis names to lengths, which may
            also say how often each comes: {"batch": 1, "sequence": 16, "calls": 120}.
        objective: "latency" of one call, "throughput" of calls side by side, "size" of the files, or "energy" of a
            call, where the machine counts it.
        budget: seconds for the whole call, which may overrun them by one step; a named target gets up to half a minute
            if nothing of it was right before. The most promising candidates go first. None: up to a minute, less for a
            model that is already fast.
        verify: False skips the comparison with eager; the artifact records this.
        processor: tokenizer or processor, where it is not stored beside the model.
        revision: branch, tag or commit, for a hub id.
        trust_remote_code: run Python code that comes with the model.
        level: one optimization level of the backend named by `target`, instead of those that compete by default.
        quantize: "int8", "int4", "nf4", "fp8" or "fp16": the machine's best scheme with such weights; "auto": the
            fastest of int8 and int4; or a scheme ("static-int8"), a preset ("avx512_vnni"), a recipe's YAML file, a
            mapping, or a `QuantizeConfig`.
        calibration: an iterable of texts, pictures, sounds or inputs by name, a `datasets.Dataset` or a `DataLoader`;
            a few hundred typical rows. One in four is held out for the comparison with eager.
        evaluate: the quality to keep: a function of the accelerated model that returns a number, more being better;
            labelled rows; (metric, labelled rows), the metric being "accuracy", "f1", "matthews", "pearson" or
            "spearman"; or ("perplexity", texts). Without it, closeness to eager on rows held out from calibration
            decides.
        max_drop: the largest loss of it: 0.01 in its own units, or "1%" of the eager model's. By
            default 0.01, and "1%" for perplexity.
        options: options of the backend named by `target`.
        progress: called with an `Event` as each stage begins and ends.
        cache_dir: cache directory, instead of `OPTIMUM_CACHE_DIR`.

    Raises:
        SourceError: the model cannot be found, read or understood.
        OptionError, UnavailableError: an argument is invalid, or not available here; raised before any work is done.
        EvaluationError: `evaluate` gives no number for the eager model; before anything is quantized.
        VerificationError: no candidate that was built agrees with eager.
        ResourceError: no candidate could be built because the disk or memory is full.
    """
    request = read_request(
        target=target, task=task, precision=precision, shapes=shapes, objective=objective, budget=budget,
        verify=verify, level=level, quantize=quantize, calibration=calibration, evaluate=evaluate, max_drop=max_drop,
        samples=sample_inputs, options=options,
    )  # fmt: skip
    _check_arguments(processor=processor, trust_remote_code=trust_remote_code, progress=progress, cache_dir=cache_dir)
    plugins, hardware = manager(), detect()
    cache = Cache(Path(cache_dir).expanduser() if cache_dir is not None else None)
    if (converted := _converted_here(model)) is not None:
        return _as_converted(converted, request, cache)
    pretrained.require_export_packages("accelerate()")
    supports = _supports_of(request, plugins, hardware)
    with settings_kept(), ordinary_modes():
        source = open_given(
            model, revision=revision, trust_remote_code=trust_remote_code, processor=processor, task=task
        )
    if isinstance(source, ConvertedSource):
        return _as_converted(source, request, cache)
    if task is not None:
        tasks.check_fit(task, source.class_name, f"model {source.name!r}")
    _require_samples(source, sample_inputs)
    pipeline = Pipeline(
        version=__version__,
        request=request,
        source=source,
        ways=asked_ways(supports, request, source.held_in, source.format),
        supports=supports,
        hardware=hardware,
        plugins=plugins,
        cache=cache,
        emit=_listener(progress),
    )
    with settings_kept(), ordinary_modes(), torch_muted(), unwound_on_termination():
        accelerated = pipeline.run()
    return _as_given(model, _noted(accelerated, plugins, request.target))


def _listener(progress: Emit | None) -> Emit:
    """Return a function that passes events on to the user's, if there is one; other searches of the process may run
    meanwhile."""

    def emit(event: Event) -> None:
        if progress is not None:
            with turn_lent():
                progress(event)

    return emit


def _supports_of(request: AccelerateRequest, plugins: PluginManager, hardware: Hardware) -> dict[str, Support]:
    """Return what the backends offer here, by name, once it is known to include what was asked for.

    Raises:
        OptionError, UnavailableError: it does not.
    """
    supports, backend = plugins.supports(hardware), request.target.backend
    if backend is not None:
        supports[backend] = plugins.support(backend, hardware)
    check_precision(request.precision, supports)
    check_level(request.level, request.target, supports)
    _require_one_device(asked_ways(supports, request, FULL_PRECISION), request.target)
    if backend is not None:
        plugins.check_options(backend, request.options, hardware)
    return supports


def _converted_here(model: Any) -> ConvertedSource | None:
    """Return the model of a local path that another package converted, which opens without torch; None: no other
    package converted it."""
    if not isinstance(model, str | os.PathLike) or not isinstance(os.fspath(model), str):
        return None
    return converted_at(os.fspath(model))


def _as_converted(source: ConvertedSource, request: AccelerateRequest, cache: Cache) -> AcceleratedModel:
    """Return a model that another package converted, opened as it is.

    Raises:
        OptionError: an argument asks for what only the model that it was made from could become.
    """
    from optimum_core.runtime.converted import as_artifact, refusals_name_the_source, require_task
    from optimum_core.runtime.loading import load

    asked = {
        "quantize": request.goal, "precision": request.precision, "level": request.level,
        "shapes": request.shapes, "sample_inputs": request.samples,
    }  # fmt: skip
    if (name := next((name for name, value in asked.items() if value is not None), None)) is not None:
        why = f"the directory holds a converted model alone ({source.form}), which is opened as it is"
        raise OptionError(name, why, f"leave {name} out, or give the checkpoint that it was made from")
    target = str(request.target) if request.target.backend is not None else None
    if request.target.backend is not None:
        manager().support(request.target.backend, detect())
        manager().check_options(request.target.backend, request.options, detect())
    place = as_artifact(source, target=target, cache=cache)
    if request.task is not None:
        require_task(place, request.task, source)
    with refusals_name_the_source(source.name):
        return load(place, target=target, options=request.options or None)


def _as_given(model: Any, fast: AcceleratedModel) -> AcceleratedModel:
    """Return an object of the class that was given, where that has more than a call: those of sentence-transformers."""
    if sentence_class(model) is None:
        return fast
    from optimum_core.models.sources.sentences.wrapper import accelerated_object

    return accelerated_object(model, fast)  # type: ignore[no-any-return]


def _check_arguments(*, processor: Any, trust_remote_code: Any, progress: Any, cache_dir: Any) -> None:
    """Raise `OptionError` for an argument that can be of no use for any model."""
    if not isinstance(trust_remote_code, bool):
        why = f"{trust_remote_code!r} is neither True nor False"
        raise OptionError("trust_remote_code", why, "pass True after reading the model's code, or leave it out")
    if processor is not None and not callable(processor):
        why = f"it is of type {type(processor).__name__}, which cannot be called"
        raise OptionError("processor", why, "pass a tokenizer or processor, as from_pretrained returns it")
    if progress is not None and not callable(progress):
        raise OptionError("progress", f"{progress!r} cannot be called", "pass a function of one Event")
    if not isinstance(cache_dir, str | os.PathLike | None) or (isinstance(cache_dir, str) and not cache_dir.strip()):
        raise OptionError("cache_dir", f"{cache_dir!r} is no path", "pass a directory, or leave it out")
    if cache_dir is not None and Path(cache_dir).expanduser().is_file():
        raise OptionError("cache_dir", f"{str(cache_dir)!r} is a file", "pass a directory, or leave it out")


def _noted(model: AcceleratedModel, plugins: PluginManager, target: Target) -> AcceleratedModel:
    """Add notes to the model's report, on missing and heavy backends and on sums of integers, and warn if
    backends are missing."""
    missing = plugins.missing_note() if target.backend is None else ""
    overflows = () if model.manifest.model.has_original else overflow_notes(model.manifest.quantized)
    report, notes = model.manifest.report, (*filter(None, [missing]), *overflows, *heavy_notes(plugins.infos()))
    if report is None:
        return model
    if missing:
        warnings.warn(missing, NoBackendWarning, stacklevel=3)
    if notes:
        model.manifest = replace(model.manifest, report=replace(report, notes=(*report.notes, *notes)))
    return model


def _require_one_device(found: tuple[Way, ...], target: Target) -> None:
    """Raise `OptionError` where the target fits several devices that are absent: none of them is guessed."""
    absent = tuple(dict.fromkeys(way.device for way in found if way.proof == "none"))
    if target.device is None and len(absent) > 1:
        raise OptionError(
            f"target {target.backend!r}",
            "there is no such device on this machine, and it builds for several others",
            f"name one: {', '.join(f'{target.backend}:{device}' for device in absent)}",
        )


def _require_samples(source: Source, samples: Any) -> None:
    if samples is None and source.in_memory and source.config is None and source.samples() is None:
        raise OptionError(
            f"model {source.name!r}",
            "a torch.nn.Module says nothing of what it takes",
            "pass sample_inputs={name: tensor, …} as for one ordinary call",
        )
