"""Optimization levels of an ONNX artifact.

| level | what is written | by |
|---|---|---|
| `basic` | folded constants, removed no-ops: plain ONNX | onnxruntime, offline |
| `extended` | and operators fused into ONNX Runtime's own | onnxruntime, offline |
| `all` | the same file as `extended` | onnxruntime, offline |
| `fusions` | attention, normalization, GELU and embeddings fused | onnxruntime's Python optimizer |
| `ort_fusions` | fusions for graphs of the dynamo exporter | transformers |
| `shared_cache` | a decoder's attention over buffers that grow in place; then as `extended` | ours |

`all` writes no layouts: those depend on the processor (blocked convolutions for AVX-512, …), and a file has to run
elsewhere too. A session adds them when it loads; its own default is all of them. Writing `extended` saves most of that
work at every load. Core compares the result of every level with the eager model: nothing here decides on correctness.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path

from optimum_core.backend import foreign_errors, present, read_options, versions
from optimum_core.errors import ExportError, OptionError
from optimum_core.types import Artifact, OptimizeRequest, StateSpec, Step
from optimum_ort.devices import BACKEND, Provider, find_build, parse_device
from optimum_ort.options import GraphLevel, OrtOptions
from optimum_ort.schemes import quantization_of
from optimum_ort.storage import (
    DATA,
    EXTERNAL_TENSOR_BYTES,
    MODEL,
    read_nodes,
    wants_external_data,
    write_again,
    written_files,
)

DEFAULT_LEVEL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """Settings that every level needs."""

    source: Path
    folder: Path
    scratch: Path
    provider: Provider
    index: int
    options: OrtOptions
    threads: int
    external: bool
    half: bool
    weights_only: bool
    state: StateSpec | None


def optimize(request: OptimizeRequest) -> Artifact:
    """Write `request.artifact`, optimized at `request.level` (None: "all"), into `request.output`.

    Precision "fp16" converts an fp32 model to half precision, with inputs and outputs unchanged; for GPUs.

    Raises:
        OptionError: the level, the precision, the device or an option is unknown.
        UnavailableError, SessionError, ExportError: the model cannot be read, or the optimizer failed.
    """
    level = request.level or DEFAULT_LEVEL
    if level not in LEVELS:
        raise OptionError(_who(request), f"unknown level {level!r}", f"use one of: {', '.join(LEVELS)}")
    if level == "ort_fusions" and _is_quantized(request.artifact):
        why = "level 'ort_fusions' is written for float models, and gets quantized ones wrong"
        raise ExportError(_who(request), why, "use level 'all'")
    half = _wants_half(request)
    provider, index = parse_device(request.device)
    with tempfile.TemporaryDirectory(prefix=".optimize-", dir=request.output) as scratch:
        job = _Job(
            source=request.artifact.main_file,
            folder=request.output,
            scratch=Path(scratch),
            provider=provider,
            index=index,
            options=read_options(BACKEND, OrtOptions, request.options),
            threads=request.hardware.cpu.usable_cores,
            external=wants_external_data(request.artifact),
            half=half,
            weights_only=quantization_of(request.artifact).get("scheme") == "weight-only",
            state=request.artifact.state,
        )
        remedy = f"use another level: {', '.join(LEVELS)}"
        with foreign_errors(_who(request), ExportError, remedy, doing=f"level {level!r} failed"):
            LEVELS[level](job)
    return dataclasses.replace(
        request.artifact,
        path=request.output,
        files=written_files(request.output),
        precision="fp16" if half else request.artifact.precision,
        steps=(*request.artifact.steps, _step(level, request)),
    )


def _wants_half(request: OptimizeRequest) -> bool:
    # Quantized weights stay as they are, whatever arithmetic is requested beside them.
    exact = request.precision == "fp32" and _is_quantized(request.artifact)
    if request.precision == request.artifact.precision or exact:
        return False
    if request.precision == "fp16" and request.artifact.precision == "fp32":
        return True
    why = f"cannot make {request.precision!r} of {request.artifact.precision!r}"
    raise OptionError(_who(request), why, "ask for the artifact's own precision, or for 'fp16' of 'fp32'")


def _is_quantized(artifact: Artifact) -> bool:
    return any(step.hook == "quantize" for step in artifact.steps)


def _native(level: GraphLevel) -> Callable[[_Job], None]:
    def run(job: _Job) -> None:
        source = _halved(job) if job.half else job.source
        _offline(job, _tied(job, source), job.folder, level)

    return run


def _fusions(job: _Job) -> None:
    from optimum_ort.worker import run_worker

    # Constants are folded first: the patterns are written for such graphs.
    _offline(job, _tied(job, job.source), job.scratch, "basic")
    run_worker(job.scratch / MODEL, job.folder, fuse=True, half=job.half, external=job.external)


def _ort_fusions(job: _Job) -> None:
    from optimum_ort.fusions import fuse
    from optimum_ort.worker import run_worker

    target = job.provider.fusion_target
    if target is None:
        why = f"transformers has no fusions for device '{job.provider.device}'"
        raise ExportError(f"backend '{BACKEND}'", why, "use level 'all'")
    fuse(job.source, job.scratch if job.half else job.folder, target, job.external)
    if job.half:
        run_worker(job.scratch / MODEL, job.folder, fuse=False, half=True, external=job.external)


def _shared_cache(job: _Job) -> None:
    from optimum_ort.merging import merge_products
    from optimum_ort.shared_cache import share_cache
    from optimum_ort.tying import tie_weights

    if job.state is None:
        raise ExportError(f"backend '{BACKEND}'", "the model keeps no cache of keys and values", "use level 'all'")
    model, beside = read_nodes(job.source), job.source.parent
    share_cache(model, job.state)
    merge_products(model, folder=beside)
    tie_weights(model, beside)
    source = write_again(model, job.scratch, beside, external=job.external)
    del model  # it holds the weights that were merged
    _offline(job, source, job.folder, "extended")


def _tied(job: _Job, source: Path) -> Path:
    """Return a graph in which products read the tables that they share: `source` itself where there are none."""
    if not present("onnx"):
        return source
    from google.protobuf.message import DecodeError
    from onnx.checker import ValidationError

    from optimum_ort.tying import tie_weights

    try:
        model = read_nodes(source)
        tied = tie_weights(model, source.parent)
    except (DecodeError, OSError, ValidationError):
        # onnxruntime refuses it, and says why; or it reads what onnx does not, such as a file with several links.
        return source
    if not tied:
        return source
    folder = job.scratch / "tied"
    folder.mkdir()
    return write_again(model, folder, source.parent, external=job.external)


def _halved(job: _Job) -> Path:
    from optimum_ort.worker import run_worker

    run_worker(job.source, job.scratch, fuse=False, half=True, external=job.external)
    return job.scratch / MODEL


LEVELS: dict[str, Callable[[_Job], None]] = {
    "all": _native("extended"),
    "basic": _native("basic"),
    "extended": _native("extended"),
    "fusions": _fusions,
    "ort_fusions": _ort_fusions,
    "shared_cache": _shared_cache,
}


def _offline(job: _Job, source: Path, folder: Path, level: GraphLevel) -> None:
    """Let onnxruntime optimize `source` offline and write the graph into `folder`.

    At most at level "basic" where weights alone are rounded: above it, products would round activations too.
    """
    from optimum_ort.runtime import open_session, session_options

    level = "basic" if job.weights_only else level
    options = dataclasses.replace(job.options, graph_optimization_level=level)
    made = session_options(options, job.provider, job.threads)
    made.optimized_model_filepath = str(folder / MODEL)
    if job.external:
        made.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
        size = str(EXTERNAL_TENSOR_BYTES)
        made.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", size)
    open_session(source, made, job.provider, job.index, options)


def _step(level: str, request: OptimizeRequest) -> Step:
    build = find_build()
    tool, version = (
        next(iter(build.distributions.items()), ("onnxruntime", "unknown")) if build else ("onnxruntime", "")
    )
    options = {"level": level, "device": request.device, "precision": request.precision, **request.options}
    if level == "ort_fusions":
        tool, version = "transformers", versions(["transformers"])["transformers"]
    return Step(hook="optimize", backend=BACKEND, tool=tool, version=version, options=options)


def _who(request: OptimizeRequest) -> str:
    return f"backend '{BACKEND}', {request.artifact.main_file}"
