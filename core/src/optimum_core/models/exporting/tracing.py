"""Input for exporters: the model in flat form, samples as tensors, and the axes that vary.

Exporters trace a module as they find it. `FlatModule` takes and gives tensors by position, `NamedModule` by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from optimum_core.models.decoders.encoder_decoder_module import CrossDecoderModule, CrossModule, EncoderModule
from optimum_core.models.decoders.language_module import LanguageModule
from optimum_core.models.decoders.module import DecoderModule
from optimum_core.models.eager.calls import FlatModule, fixed_arguments
from optimum_core.models.eager.outputs import flatten
from optimum_core.models.eager.time_limit import export_limit
from optimum_core.models.exporting.rewriting import export_ready
from optimum_core.models.pretrained import quiet
from optimum_core.types import ExportRequest, TensorSpec
from optimum_core.types.state import CROSS, CROSS_INPUTS, EMBEDS, ENCODER


class NamedModule(torch.nn.Module):
    """`forward(**tensors) -> dict of tensors`, with only the inputs in question in its signature.

    For exporters that read the signature, as those of `transformers.exporters` do.

    Args:
        inputs, outputs: names, in order.
    """

    def __init__(self, module: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.output_names = tuple(outputs)
        self.arguments = fixed_arguments(module)
        self.input_names = {identifier(name): name for name in inputs}
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in self.input_names]
        self.__signature__ = inspect.Signature(parameters)

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        named = {self.input_names.get(name, name): tensor for name, tensor in tensors.items()}
        flat = flatten(self.module(**named, **self.arguments))
        return {name: flat[name] for name in self.output_names}


def identifier(name: str) -> str:
    """Return the name of an input as a parameter of `NamedModule`.

    >>> identifier("past_key_values.0.key")
    'past_key_values_0_key'
    """
    return name.replace(".", "_")


def graph_inputs(request: ExportRequest) -> tuple[TensorSpec, ...]:
    """Return the inputs of the graph to export: the request's, and for a decoder the keys and values of its past."""
    return request.inputs if request.state is None else (*request.inputs, *request.state.past)


def graph_outputs(request: ExportRequest) -> tuple[TensorSpec, ...]:
    """Return the outputs of the graph to export: the request's, and for a decoder its keys and values afterwards."""
    return request.outputs if request.state is None else (*request.outputs, *request.state.present)


def stateless(module: Any, request: ExportRequest) -> Any:
    """Return the module to trace: the model itself or one of its parts, a decoder with past and present as tensors."""
    if request.part == ENCODER:
        return EncoderModule(module)
    if request.part == CROSS:
        return CrossModule(module, [spec.name for spec in request.outputs])
    if request.state is None:
        return module
    if request.inputs[0].name == EMBEDS:
        return LanguageModule(module, request.state)
    cross = [spec.name for spec in request.inputs if spec.name.startswith(CROSS_INPUTS)]
    return CrossDecoderModule(module, request.state, cross) if cross else DecoderModule(module, request.state)


def flat_module(module: Any, request: ExportRequest) -> FlatModule:
    """Return the model as `forward(*tensors) -> tuple of tensors`, in the order of `graph_inputs` and `graph_outputs`.

    >>> flat_module(module, request)(*sample_tensors(request).values())  # doctest: +SKIP
    """
    inputs, outputs = graph_inputs(request), graph_outputs(request)
    made = FlatModule(stateless(module, request), [spec.name for spec in inputs], [spec.name for spec in outputs])
    return made.eval()


def named_module(module: Any, request: ExportRequest) -> NamedModule:
    """Return the model as `forward(**tensors) -> dict of tensors` with `graph_inputs` and `graph_outputs`.

    >>> named_module(module, request)(**sample_tensors(request))  # doctest: +SKIP
    """
    inputs, outputs = graph_inputs(request), graph_outputs(request)
    return NamedModule(stateless(module, request), [spec.name for spec in inputs], [spec.name for spec in outputs])


def sample_tensors(request: ExportRequest) -> dict[str, torch.Tensor]:
    """Return the request's samples as tensors by name, in the order of `graph_inputs`."""
    return {spec.name: torch.as_tensor(request.samples[spec.name]) for spec in graph_inputs(request)}


def dynamic_shapes(specs: Sequence[TensorSpec]) -> dict[str, dict[int, Any]]:
    """Return by input which axes vary, as `torch.export` takes it; for a `FlatModule`, `(tuple(shapes.values()),)`.

    >>> spec = TensorSpec(name="input_ids", dtype="int64", shape=("batch", 4))
    >>> dynamic_shapes([spec])["input_ids"].keys()
    dict_keys([0])
    """
    return {spec.name: dict.fromkeys(spec.dynamic_axes, torch.export.Dim.AUTO) for spec in specs}


def exported_program(module: Any, samples: Sequence[torch.Tensor], inputs: Sequence[TensorSpec]) -> Any:
    """Return the `torch.export.ExportedProgram` of a module that takes `samples` by position; named axes vary.

    What torch raises on a model that it cannot trace comes as it is: see `foreign_errors`.

    Raises:
        ExportError: it takes too long.
    """
    shapes = (tuple(dynamic_shapes(inputs).values()),)
    with torch.no_grad(), export_limit(module, "torch.export", "another route may do it"):
        return torch.export.export(module, tuple(samples), dynamic_shapes=shapes, strict=False)


@contextmanager
def ready_to_trace(module: Any) -> Iterator[None]:
    """Make the model traceable, without gradients and without prints of torch and transformers, while the block
    runs."""
    with quiet(), export_ready(module), torch.no_grad():
        yield
