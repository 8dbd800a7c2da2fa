"""Export requests: checking them before any work, and creating them for direct calls of hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.types import Artifact, ExportRequest, Step


def check_export(
    request: ExportRequest, format: str, *, routes: Sequence[str] = (), precisions: Sequence[str] | None = None
) -> str:
    """Return the route to use: the one that was asked for, or the first; "" where there are none.

    Args:
        format: the format that the backend writes.
        routes: names of its export methods.
        precisions: precisions that it writes; None: it accepts any, and leaves weights unchanged.

    Raises:
        OptionError: the route, the format or the precision is not supported.
    """
    who = f"backend {request.backend!r}"
    if request.route is not None and request.route not in routes:
        known = f"use one of: {', '.join(routes)}" if routes else "it has one route, without a name"
        raise OptionError(who, f"unknown route {request.route!r}", known)
    if request.format != format:
        raise OptionError(who, f"it does not export {request.format!r}", f"ask for {format!r}")
    if precisions is not None and request.precision not in precisions:
        raise OptionError(who, f"it does not export in {request.precision!r}", f"use one of: {', '.join(precisions)}")
    return request.route or next(iter(routes), "")


def exported(
    request: ExportRequest, files: Sequence[str], *, tool: str, version: str, chosen: Mapping[str, Any], **further: Any
) -> Artifact:
    """Return the artifact that was written into `request.output`, with the request's inputs, outputs and state.

    Args:
        files: the files written, the one to open first in front.
        tool: the exporter, for the manifest.
        version: its version.
        chosen: the options that it used.
        further: fields of `Artifact`, such as `precision`.
    """
    step = Step(hook="export", backend=request.backend, tool=tool, version=version, options=chosen)
    return Artifact(
        format=request.format,
        path=request.output,
        files=tuple(files),
        inputs=request.inputs,
        outputs=request.outputs,
        state=request.state,
        steps=(step,),
        **further,
    )


def export_request(model: Any, backend: str, format: str, output: Path, *, samples: Any = None) -> ExportRequest:
    """Return a request to export a model in memory, for direct calls of a backend's hooks.

    Inputs and outputs of the model are determined as in `accelerate`; it is not compared with eager.

    Args:
        samples: inputs by name, for models whose inputs cannot be derived.
        output: an empty directory.

    Raises:
        SourceError: no inputs were found that the model accepts.

    >>> manager().export(export_request(model, "acme", "acme-ir", folder))  # doctest: +SKIP
    """
    from optimum_core.models.exporting.requests import export_of
    from optimum_core.models.signatures.signature import describe
    from optimum_core.models.sources.source import MemorySource

    source = MemorySource(model)
    signature = describe(source.module(), name=source.name, samples=samples)
    return export_of(backend, format, source, signature, output)
