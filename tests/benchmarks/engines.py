"""TensorRT engines of many models in every precision, with no GPU: what was built, how long it took, how true
the graph is that went in. Nothing is run on a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from tests.benchmarks.architectures import ARCHITECTURES, tiny
from tests.benchmarks.page import Page

from optimum_core.cli.values import size_words
from optimum_core.errors import ExportError, OptimumError
from optimum_core.hardware import detect
from optimum_core.models.exporting.requests import export_of
from optimum_core.models.inputs.samples import Case
from optimum_core.models.pretrained import quiet
from optimum_core.models.signatures.signature import ModelSignature, describe
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.types import (
    Artifact,
    Fidelity,
    OptimizeRequest,
    QuantizeConfig,
    QuantizeRequest,
    SessionRequest,
)
from optimum_core.verify import ReferenceCase, verify
from optimum_core.verify.reference import reference_cases

DEVICE = "sm_89"
_ROUTES = ("torchscript", "dynamo")
_QUANTIZED = {
    "int8": QuantizeConfig(scheme="static", weights="int8", activations="int8", symmetric=True, reduce_range=False),
    "fp8": QuantizeConfig(scheme="static", weights="fp8", activations="fp8"),
}
_PRECISIONS = ("fp32", "fp16", "bf16", *_QUANTIZED)


def run(cache: Path) -> Page:
    """Every architecture by core's exporter, checked on ONNX Runtime, and built for one compute capability."""
    import torch

    torch.set_num_threads(1)  # tiny products are slower in several
    rows: list[tuple[str, ...]] = []
    for model_type in ARCHITECTURES:
        rows += _rows(model_type, cache)
        print(*rows[-1], file=sys.stderr)  # noqa: T201  it takes long
    built = [row for row in rows if row[3] == "yes"]
    whole = {row[0] for row in rows} - {row[0] for row in rows if row[3] != "yes"}
    return Page(
        name="trt",
        title="Build matrix",
        head=("model", "precision", "varying axes", "built", "seconds", "size", "graph against eager"),
        rows=tuple(rows),
        notes=(
            f"{len({row[0] for row in built})} of {len(ARCHITECTURES)} architectures were built, {len(whole)} in all "
            f"of the precisions, for {DEVICE} with tensorrt-rtx {version('tensorrt-rtx')} on a machine without a GPU; "
            "tiny models with random weights.",
            "Graph against eager: the largest relative error of the ONNX that the builder reads, computed on the "
            "CPU at shapes and paddings that were not traced, beside eager; in bold where it is beyond the tolerance "
            "of the precision. It is the level `graph`: TensorRT's own arithmetic was not run. Graphs in fp32 were run "
            "by ONNX Runtime, the others computed by onnx's reference evaluator, which rounds after every operator.",
        ),
    )


def _rows(model_type: str, cache: Path) -> Iterator[tuple[str, ...]]:
    try:
        with quiet():
            source = MemorySource(tiny(model_type))
            signature = describe(source.module(), name=model_type)
            cases = reference_cases(source.module(), signature)
        onnx, error = _exported(source, signature, cases, cache)
    except OptimumError as problem:
        yield (model_type, "", "", _short(problem), "", "", "")
        return
    for precision in _PRECISIONS:
        yield (
            model_type,
            precision,
            ", ".join(signature.axes),
            *_built(onnx, error, signature, cases, precision, cache),
        )


def _exported(
    source: MemorySource, signature: ModelSignature, cases: tuple[ReferenceCase, ...], cache: Path
) -> tuple[Artifact, Fidelity]:
    """The first route that agrees with eager, and how well."""
    problem: OptimumError | None = None
    for route in _ROUTES:
        request = export_of("onnx", "onnx", source, signature, Path(mkdtemp(dir=cache)), route=route)
        try:
            made = manager().export(request)
            fidelity = _compared(made, cases, "fp32")
            if fidelity.passed:
                return made, fidelity
            assert fidelity.worst is not None
            why = f"differs from eager: {fidelity.worst.problem}"
            problem = ExportError("graph", why, "export it by another route")
        except OptimumError as error:
            problem = error
    assert problem is not None
    raise problem


def _built(
    onnx: Artifact,
    exact: Fidelity,
    signature: ModelSignature,
    cases: tuple[ReferenceCase, ...],
    precision: str,
    cache: Path,
) -> tuple[str, str, str, str]:
    seconds = 0.0
    try:
        source = _quantized(onnx, signature, precision, cache) if precision in _QUANTIZED else onnx
        request = OptimizeRequest(
            backend="trt",
            artifact=source,
            device=DEVICE,
            precision="fp32" if precision in _QUANTIZED else precision,
            hardware=detect(),
            output=Path(mkdtemp(dir=cache)),
            shapes=({axis: signature.layout.lengths[axis] for axis in signature.axes},),
        )
        started = time.perf_counter()
        made = manager().optimize(request)
        seconds = time.perf_counter() - started
        size = size_words(made.main_file.stat().st_size)
    except OptimumError as problem:
        return _short(problem), f"{seconds:.1f}" if seconds else "", "", ""
    try:
        return "yes", f"{seconds:.1f}", size, _fidelity(made, exact, cases, precision)
    except OptimumError as problem:
        return "yes", f"{seconds:.1f}", size, _short(problem)


def _fidelity(built: Artifact, exact: Fidelity, cases: tuple[ReferenceCase, ...], precision: str) -> str:
    fidelity = exact
    if precision != "fp32":
        assert built.compiled_from is not None
        fidelity = _compared(built.compiled_from, cases, precision)
    error = f"{max(result.relative_error for result in fidelity.results):.1g}"
    return error if fidelity.passed else f"**{error}**"


def _quantized(onnx: Artifact, signature: ModelSignature, precision: str, cache: Path) -> Artifact:
    calibration = [signature.draw(Case(name="calibration", seed=seed)) for seed in range(40, 48)]
    request = QuantizeRequest(
        backend="ort",
        artifact=onnx,
        config=_QUANTIZED[precision],
        hardware=detect(),
        output=Path(mkdtemp(dir=cache)),
        calibration=calibration,
    )
    return manager().quantize(request)


def _compared(onnx: Artifact, cases: tuple[ReferenceCase, ...], precision: str) -> Fidelity:
    """The graph beside eager: in fp32 on ONNX Runtime, else in onnx's evaluator.

    Raises:
        OptimumError: it does not run.
    """
    backend = "ort" if precision == "fp32" else "onnx"
    session = manager().load_session(SessionRequest(backend=backend, artifact=onnx, device="cpu", hardware=detect()))
    try:
        bound = manager().binder(session)
        arrays: Any = lambda inputs: {name: np.asarray(value) for name, value in bound(inputs).items()}  # noqa: E731
        return verify(arrays, cases, onnx.outputs, precision=precision)
    finally:
        session.close()


def _short(problem: OptimumError) -> str:
    """The error in one line that fits a table."""
    words = " ".join(problem.why.split())
    return words if len(words) <= 160 else f"{words[:157]}…"
