"""The alternatives: the eager model in bf16, `torch.compile`, and transformers' own exporters."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch

from optimum_core.models.eager.outputs import flatten
from optimum_core.models.pretrained import quiet

Inputs = Mapping[str, torch.Tensor]
#: A whole call, to a mapping of outputs by name; or why there is none.
Call = Callable[[], Mapping[str, Any]]
Calls = list[Call | str]
_COMPILING_SECONDS = 120.0


def eager(model: Any, inputs: Sequence[Inputs]) -> Calls:
    """The model as it is."""
    return [_plain(model, item) for item in inputs]


def autocast(model: Any, inputs: Sequence[Inputs]) -> Calls:
    """The model under autocast to bf16."""

    def call(item: Inputs) -> Mapping[str, Any]:
        with torch.autocast("cpu", torch.bfloat16):
            return dict(flatten(model(**item)))

    return [_bound(call, item) for item in inputs]


def compiled(model: Any, inputs: Sequence[Inputs]) -> Calls:
    """`torch.compile`, compiled for every shape before it is timed; once a shape took too long, no further one."""
    torch.compiler.reset()
    made = torch.compile(model, dynamic=False)
    calls: Calls = []
    problem = ""
    for item in inputs:
        problem = problem or _compile(made, item)
        calls.append(problem or _plain(made, item))
    return calls


def _compile(made: Any, inputs: Inputs) -> str:
    """Return the reason why this shape has no compiled form; empty when it has."""
    start = time.perf_counter()
    try:
        with _silence(), torch.inference_mode():
            made(**inputs)
    except Exception as error:  # noqa: BLE001 - compilers fail in any way they like; the table says how
        return _words(error)
    taken = time.perf_counter() - start
    return f"compiling took {taken:.0f} s" if taken > _COMPILING_SECONDS else ""


def onnx_runtime(model: Any, inputs: Sequence[Inputs]) -> Calls:
    """transformers' exporter to ONNX with its fusions for ONNX Runtime, called as its documentation does."""
    from transformers.exporters import OnnxConfig, OnnxExporter

    try:
        with _silence():
            exported = OnnxExporter().export(
                model, dict(_largest(inputs)), config=OnnxConfig(dynamic=True, ort_fusions="cpu")
            )
            exported(**inputs[0])
    except Exception as error:  # noqa: BLE001 - exporters fail in any way they like; the table says how
        return [_words(error)] * len(inputs)
    return [_plain(exported, item) for item in inputs]


def openvino(model: Any, inputs: Sequence[Inputs]) -> Calls:
    """transformers' exporter to OpenVINO, compiled by OpenVINO as it does by itself, in its default precision."""
    try:
        import openvino as runtime
        from transformers.exporters import OpenVINOConfig, OpenVINOExporter

        with _silence():
            exported = OpenVINOExporter().export(model, dict(_largest(inputs)), config=OpenVINOConfig(dynamic=True))
            made = runtime.compile_model(exported.program, "CPU")
    except Exception as error:  # noqa: BLE001 - as above, and openvino may not be installed
        return [_words(error)] * len(inputs)

    def call(item: Inputs) -> Mapping[str, Any]:
        found = made({name: tensor.numpy() for name, tensor in item.items()})
        return {port.get_any_name(): value for port, value in found.items()}

    return [_bound(call, item) for item in inputs]


#: By the name in the table; the first is what the others are compared with.
CONTESTANTS: dict[str, Callable[[Any, Sequence[Inputs]], Calls]] = {
    "eager": eager,
    "eager bf16": autocast,
    "torch.compile": compiled,
    "transformers → ORT": onnx_runtime,
    "transformers → OpenVINO": openvino,
}


def _plain(model: Any, inputs: Inputs) -> Call:
    return lambda: dict(flatten(model(**inputs)))


def _bound(call: Callable[[Inputs], Mapping[str, Any]], inputs: Inputs) -> Call:
    return lambda: call(inputs)


def _largest(inputs: Sequence[Inputs]) -> Inputs:
    """An exporter takes an axis of length 1 for fixed."""
    return max(inputs, key=lambda item: next(iter(item.values())).numel())


def _words(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:100] if lines else ''}"


@contextmanager
def _silence() -> Iterator[None]:
    with quiet(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        yield
