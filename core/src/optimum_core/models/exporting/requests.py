"""Requests to export a model whose signature is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.sources.source import Source
from optimum_core.types import ExportRequest


def export_of(
    backend: str, format: str, source: Source, signature: ModelSignature, output: Path, **fields: Any
) -> ExportRequest:
    """Return a request to export a model in fp32, traced with the inputs that a search traces it with.

    Args:
        fields: further ones of `ExportRequest`.
    """
    return ExportRequest(
        backend=backend,
        source=source,
        task=signature.task,
        format=format,
        precision="fp32",
        samples=signature.draw(Case(name="traced")),
        inputs=signature.inputs,
        outputs=signature.outputs,
        output=output,
        **fields,
    )
