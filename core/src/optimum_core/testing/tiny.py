"""Tiny models of transformers with random weights, for the tests of backends, and their eager outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.samples import Arrays, Case
from optimum_core.models.signature import ModelSignature, describe
from optimum_core.models.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.testing import decoders
from optimum_core.types import Artifact, ExportRequest
from optimum_core.verify import ReferenceCase
from optimum_core.verify.reference import reference_cases

_LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
#: By the prefix of transformers' classes, the configuration.
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "Bert": {"vocab_size": 99, **_LAYERS, "max_position_embeddings": 64},
    "DistilBert": {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "max_position_embeddings": 64,
    },
    "GPT2": {
        "vocab_size": 99,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "T5": {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "ViT": {**_LAYERS, "image_size": 32, "patch_size": 8},
}
#: Families in which a mask decides the outputs, and hardly shows with weights as usually initialized.
_MASKED = ("Bert", "DistilBert", "GPT2")
_SHARPEN = 6.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tiny:
    """A tiny model, its signature, and its eager outputs for inputs that it was not traced with.

    Attributes:
        backend, format: of the requests to export it.
    """

    source: MemorySource
    signature: ModelSignature
    cases: tuple[ReferenceCase, ...]
    backend: str = "onnx"
    format: str = "onnx"

    def request(self, output: Path, **changes: Any) -> ExportRequest:
        """Return a request to export it in fp32, with changes."""
        request = ExportRequest(
            backend=self.backend,
            source=self.source,
            task=self.signature.task,
            format=self.format,
            precision="fp32",
            samples=self.signature.draw(Case(name="traced")),
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            output=output,
        )
        return dataclasses.replace(request, **changes)

    def batches(self, count: int = 6) -> list[Arrays]:
        """Return texts of several lengths to calibrate with, four rows in each."""
        return [
            self.signature.draw(
                Case(name="calibration", lengths={"batch": 4, "sequence": 8 + 4 * number}, seed=100 + number)
            )
            for number in range(count)
        ]


def module(name: str, **changes: Any) -> Any:
    """Return a new model in eval mode; the same weights at each call.

    Args:
        name: a class of transformers ("BertForSequenceClassification") of a family in `CONFIGS`.
        changes: other values of the configuration.

    Raises:
        OptionError: it is no such class.
    """
    import torch
    import transformers

    family = max((prefix for prefix in CONFIGS if name.startswith(prefix)), key=len, default=None)
    if family is None or not hasattr(transformers, name):
        why = "it is no class of transformers for which there are sizes"
        raise OptionError(f"tiny model {name!r}", why, f"name a class of {', '.join(CONFIGS)}")
    config = getattr(transformers, f"{family}Config")(**{**CONFIGS[family], **changes})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        made = getattr(transformers, name)(config)
        for parameter in made.parameters() if family in _MASKED else ():
            if parameter.ndim == 2:
                parameter.mul_(_SHARPEN)
    return made.eval()


@cache
def tiny(name: str, *, backend: str = "onnx", format: str = "onnx", **changes: Any) -> Tiny:
    """Return the tiny model of a class; the same object for equal arguments.

    Args:
        name, changes: as in `module`.
        backend, format: of the requests to export it.
    """
    return described(module(name, **changes), name, backend=backend, format=format)


def described(module: Any, name: str, *, backend: str = "onnx", format: str = "onnx") -> Tiny:
    """Return a model of any size with its signature, and its eager outputs for inputs that it was not traced with."""
    source = MemorySource(module)
    signature = describe(source.module(), name=name)
    cases = reference_cases(source.module(), signature)
    return Tiny(source=source, signature=signature, cases=cases, backend=backend, format=format)


def zoo(
    kinds: Mapping[str, tuple[str, Mapping[str, Any]]], *, backend: str = "onnx", format: str = "onnx"
) -> Callable[[str], Tiny]:
    """Return a function that makes the tiny model of each kind once.

    Args:
        kinds: by name of the kind, the class and the changes of `module`.
        backend, format: of the requests to export them.
    """

    @cache
    def of_kind(kind: str) -> Tiny:
        name, changes = kinds[kind]
        return described(module(name, **changes), kind, backend=backend, format=format)

    return of_kind


def export(kind: str, format: str, output: Path, **fields: Any) -> Artifact:
    """Export a tiny model by the first backend here that writes the format.

    Args:
        kind: a class as in `module`, or a decoder of `decoders.KINDS`, which keeps its cache as state.
        output: an empty folder.
        fields: of the `ExportRequest`; the route is the backend's first.

    Raises:
        UnavailableError: no backend here exports to the format.
    """
    backend, routes = _exporter(format, stateful=kind in decoders.KINDS)
    fields = {"backend": backend, "route": next(iter(routes), None), **fields}
    if kind in decoders.KINDS:
        request = decoders.decoder_request(kind, backend, format, output)
        return manager().export(dataclasses.replace(request, **fields))
    return manager().export(tiny(kind).request(output, format=format, **fields))


def _exporter(format: str, *, stateful: bool) -> tuple[str, tuple[str, ...]]:
    """Return the first backend here that writes a format, and its routes."""
    for name, support in sorted(manager().supports(detect()).items()):
        for offer in support.offers:
            if format in offer.exports and (format in offer.stateful or not stateful):
                return name, (offer.stateful_routes or offer.routes) if stateful else offer.routes
    raise UnavailableError(f"format {format!r}", "no backend here exports to it", "install one that does")
