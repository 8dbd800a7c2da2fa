"""A given ONNX file, quantized or not, as a model; onnx's reference evaluator takes the place of the eager model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optimum_core.errors import SourceError
from optimum_core.models import fingerprint, tasks
from optimum_core.models.eager.outputs import Answer
from optimum_core.models.sources.agreement import check_outputs
from optimum_core.models.sources.onnx_evaluator import evaluator
from optimum_core.models.sources.onnx_graph import FLOATS, FULL, precision_of, rows_looked_up
from optimum_core.types.quantization import Scheme

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature

#: Bound of drawn ids if the graph does not tell it; lengths for axes that vary.
_IDS = 2
_LENGTHS = (2, 8)


class OnnxModule(torch.nn.Module):
    """The graph, evaluated operator by operator: slow, but according to the specification.

    Args:
        path: the model file; its external data lies beside it.
        who: the model's name in messages.

    Raises:
        SourceError: it cannot be read, or has operators that the evaluator does not know.
    """

    #: Its inputs are of the types that the graph states.
    takes_16_bits = True

    def __init__(self, path: Path, who: str) -> None:
        super().__init__()
        import onnx

        self.who = who
        self.fingerprint = fingerprint.of_file(path)
        remedy = "give a file of standard ONNX, or the model that it was made from"
        try:
            onnx.checker.check_model(path)
            self.proto, self.evaluator = evaluator(path)
        except Exception as error:  # damaged files and unknown operators raise errors of many types
            why = f"onnx's reference evaluator cannot take it, so that nothing can be checked: {error!r}"
            raise SourceError(who, why[:400], remedy) from error

    def __deepcopy__(self, memo: Any) -> OnnxModule:
        """Return the module itself: the evaluator has no state between calls, and holds all weights."""
        return self

    def forward(self, **inputs: torch.Tensor) -> Answer:
        names = [output.name for output in self.proto.graph.output]
        values = self.evaluator.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return Answer({name: torch.as_tensor(np.asarray(value)) for name, value in zip(names, values, strict=True)})

    def samples(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return one call's inputs: ids within the tables that they index, masks of ones, floats around zero.

        Raises:
            SourceError: an input is no tensor of numbers.
        """
        rng = np.random.default_rng(0)
        return {name: self._sample(name, spec, rng) for name, spec in self._inputs()}

    def _inputs(self) -> Iterator[tuple[str, Any]]:
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        for value in self.proto.graph.input:
            if value.name not in constants:
                yield value.name, value.type.tensor_type

    def _sample(self, name: str, spec: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        import onnx

        dtype = onnx.helper.tensor_dtype_to_np_dtype(spec.elem_type)
        if dtype.kind not in "biuf":
            raise SourceError(self.who, f"input {name!r} is {dtype}", "give a model that takes numbers")
        axes: dict[str, int] = {}
        shape = []
        for axis in spec.shape.dim:
            if axis.dim_value > 0:
                shape.append(axis.dim_value)
            else:
                shape.append(axes.setdefault(axis.dim_param or f"{len(axes)}", _LENGTHS[min(len(shape), 1)]))
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        if "mask" in name:
            return np.ones(shape, dtype=dtype)
        return rng.integers(0, rows_looked_up(self.proto, name) or _IDS, size=shape).astype(dtype)


class OnnxSource:
    """A `ModelSource` on an ONNX file: already exported, and without a configuration or a processor of its own."""

    format: str | None = "onnx"
    config: Any = None
    #: The content of `config.json` beside it.
    described: Mapping[str, Any] = MappingProxyType({})
    in_memory = False
    held_in = "fp32"
    notes: tuple[str, ...] = (
        "it was given as an ONNX file: it was compared with onnx's reference evaluator of that file, and is unverified "
        "against an original",
    )

    def __init__(self, path: Path, *, processor: Any = None) -> None:
        self.path = path
        self.processor = processor

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def class_name(self) -> str:
        """The name of the class that it was exported from, if that is known."""
        return ""

    @property
    def task(self) -> str | None:
        """The task of the class that it was exported from."""
        return tasks.detect(self.class_name)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint.of_file(self.path) + "".join(fingerprint.of_file(path) for path in self._external())

    @cached_property
    def _module(self) -> OnnxModule:
        return OnnxModule(self.path, f"model {self.name!r}")

    def module(self) -> Any:
        """Return the graph in the reference evaluator."""
        return self._module

    @cached_property
    def precision(self) -> str:
        """The precision that it holds: of its arithmetic, or the scheme by which it was quantized."""
        return precision_of(self._module.proto)

    @property
    def is_quantized(self) -> bool:
        """Whether its weights or some of its matrix products are of quantized values."""
        return self.precision not in FLOATS

    @property
    def held_to(self) -> str | None:
        """The precision whose tolerance applies to every candidate; None: that of each one applies."""
        if self.is_quantized:
            return Scheme.parse(self.precision).weights
        return None if self.precision == FULL else self.precision

    def samples(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return one call's inputs, as the graph itself declares them."""
        return self._module.samples()

    def size(self) -> int:
        """Return the size of its files in bytes."""
        return sum(path.stat().st_size for path in (self.path, *self._external()))

    def compare_with_original(self, signature: ModelSignature) -> None:
        """Compare nothing: the file is what was given."""

    def check_outputs(self, signature: ModelSignature) -> None:
        """Compare the graph's outputs with the configuration and the task.

        Raises:
            SourceError: they contradict each other.
        """
        check_outputs(self.described, signature.task, signature.outputs, f"model {self.name!r}")

    def companions(self) -> Mapping[str, Path]:
        """Return no files: an ONNX file has no companions."""
        return {}

    def save_companions(self, directory: Path) -> None:
        """Write the processor that was passed, if any."""
        if hasattr(self.processor, "save_pretrained"):
            self.processor.save_pretrained(directory)

    def copy_to(self, directory: Path) -> tuple[str, ...]:
        """Copy the model and its external data; return the names, the model's first."""
        shutil.copyfile(self.path, directory / "model.onnx")
        others = self._external()
        for path in others:
            shutil.copyfile(path, directory / path.name)
        return ("model.onnx", *(path.name for path in others))

    def _external(self) -> list[Path]:
        """Return the files of external data beside it.

        Raises:
            SourceError: the file is no ONNX, or its external data is missing or lies elsewhere.
        """
        import onnx
        from onnx.external_data_helper import uses_external_data

        who = f"model {self.name!r}"
        try:
            proto = onnx.load(self.path, load_external_data=False)
        except Exception as error:  # a damaged file raises errors of many types
            raise SourceError(who, f"{self.path} is no ONNX model: {error!r}", "check the file") from error
        if not proto.graph.node:
            size = self.path.stat().st_size
            why = f"{self.path} is empty" if size == 0 else f"{self.path} ({size} bytes) holds no graph with operators"
            raise SourceError(who, why, "write or download the file again")
        names: Mapping[str, None] = dict.fromkeys(
            entry.value
            for tensor in proto.graph.initializer
            if uses_external_data(tensor)
            for entry in tensor.external_data
            if entry.key == "location"
        )
        for name in names:
            if Path(name).name != name or not (self.path.parent / name).is_file():
                raise SourceError(who, f"its weights in {name!r} are not beside it", "put the file there")
        return [self.path.parent / name for name in names]
