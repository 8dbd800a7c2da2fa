"""Conversion of a program to another precision. Core ML cannot choose the precision at load time: it is stored in the
program, so fp16 takes a program of its own.
"""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

from optimum_core.backend import foreign_errors, read_options, versions
from optimum_core.errors import ExportError, OptionError
from optimum_core.types import Artifact, OptimizeRequest, Step
from optimum_coreml.coremltools_adapter import change, open_package, quiet
from optimum_coreml.devices import BACKEND, FORMAT, LEVELS, PRECISIONS
from optimum_coreml.interface import compute_precision
from optimum_coreml.options import CoreMlOptions
from optimum_coreml.storage import PACKAGE, notes_of, package_of, read_program, save


def optimize(request: OptimizeRequest) -> Artifact:
    """Write `request.artifact` in `request.precision` into `request.output`; unchanged where it has that precision.

    Raises:
        OptionError: the level, the format, an option or the precision is unknown, or more bits are asked for than
            there are.
        SessionError, ExportError: the package cannot be read, or coremltools cannot convert it.
    """
    who = f"backend '{BACKEND}', {package_of(request.artifact)}"
    _check(request, who)
    spec = read_program(package_of(request.artifact), who)
    found = compute_precision(spec)
    if found == request.precision:
        shutil.copytree(package_of(request.artifact), request.output / PACKAGE, dirs_exist_ok=True)
        files: tuple[str, ...] = request.artifact.files
    elif request.precision == "fp16":
        files = _halved(request, spec, who)
    else:
        raise OptionError(who, f"it computes in {found}, and gets no more exact", "export the model again in 'fp32'")
    floats = request.artifact.precision in PRECISIONS
    return dataclasses.replace(
        request.artifact,
        path=request.output,
        files=files,
        precision=request.precision if floats else request.artifact.precision,
        steps=(*request.artifact.steps, _step(request)),
    )


def _check(request: OptimizeRequest, who: str) -> None:
    read_options(BACKEND, CoreMlOptions, request.options)
    if request.artifact.format != FORMAT:
        raise OptionError(who, f"it does not optimize {request.artifact.format!r}", f"export to {FORMAT!r}")
    if request.level not in (None, *LEVELS):
        raise OptionError(who, f"unknown level {request.level!r}", f"use one of: {', '.join(LEVELS)}")
    if request.precision not in PRECISIONS:
        raise OptionError(who, f"it does not write {request.precision!r}", f"use one of: {', '.join(PRECISIONS)}")


def _halved(request: OptimizeRequest, spec: Any, who: str) -> tuple[str, ...]:
    failing = foreign_errors(who, ExportError, "export the model in 'fp16'", doing="it cannot be brought to fp16")
    with failing, quiet() as ct:
        from optimum_coreml.fp16 import halving, passes

        model = open_package(ct, package_of(request.artifact))
        with halving():
            half = change(ct, model, passes())
        return save(half, request.output, notes_of(spec))


def _step(request: OptimizeRequest) -> Step:
    options = {"precision": request.precision}
    return Step(
        hook="optimize",
        backend=BACKEND,
        tool="coremltools",
        version=versions(["coremltools"])["coremltools"],
        options=options,
    )
