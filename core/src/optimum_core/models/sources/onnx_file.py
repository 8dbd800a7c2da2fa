"""A given ONNX file, quantized or not, as a model; onnx's reference evaluator takes the place of the eager model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optimum_core.errors import SourceError
from optimum_core.models import fingerprint, tasks
from optimum_core.models.eager.outputs import Answer
from optimum_core.models.sources.agreement import check_outputs
from optimum_core.models.sources.onnx_evaluator import evaluate, evaluator
from optimum_core.models.sources.onnx_graph import (
    FLOATS,
    FULL,
    channels_of,
    copy_external,
    external_files,
    is_double,
    precision_of,
    read_graph,
    require_tensors,
    rows_looked_up,
    table_lengths,
)
from optimum_core.types.arrays import ArrayMapping, Arrays, NDArray
from optimum_core.types.quantization import Scheme
from optimum_core.types.tensors import text_default

if TYPE_CHECKING:
    from optimum_core.models.signatures.signature import ModelSignature

log = logging.getLogger(__name__)

#: Bound of drawn ids if the graph does not tell it; the length of a first axis that varies.
_IDS = 2
_ROWS = 2
#: Lengths of other axes that vary, the first at which the graph runs: of texts, pictures and sounds.
_LENGTHS = (8, 32, 64, 224, 256, 384, 512, 1024, 4000, 16000)
#: The greatest number of elements of an input that is tried.
_MOST = 1 << 23
_IDS_OF_TEXT = "input_ids"


class OnnxModule(torch.nn.Module):
    """The graph, evaluated operator by operator: slow, but according to the specification.

    Args:
        path: the model file; its external data lies beside it.
        who: the model's name in messages.
        edge: height and width of the pictures that it was exported for, where that is known.

    Raises:
        SourceError: it cannot be read, or has operators that the evaluator does not know.
    """

    #: Its inputs are of the types that the graph states, and named as those of transformers' models are.
    is_graph = True

    #: Whether its floats are in 64 bits.
    is_double: bool

    def __init__(self, path: Path, who: str, edge: int | None = None) -> None:
        super().__init__()
        import onnx

        self.who = who
        self._edge = edge
        self.fingerprint = fingerprint.of_file(path)
        remedy = "give a file of standard ONNX, or the model that it was made from"
        require_tensors(onnx.load(path, load_external_data=False), who)
        try:
            onnx.checker.check_model(path)
            self.proto, self.evaluator = evaluator(path)
        except Exception as error:  # damaged files and unknown operators raise errors of many types
            why = f"onnx's reference evaluator cannot take it, so that nothing can be checked: {error!r}"
            raise SourceError(who, why[:400], remedy) from error
        self.is_double = is_double(self.proto)

    @cached_property
    def table_lengths(self) -> tuple[int, ...]:
        """The lengths of the tables that it looks up."""
        return table_lengths(self.proto)

    def __deepcopy__(self, memo: Any) -> OnnxModule:
        """Return the module itself: the evaluator has no state between calls, and holds all weights."""
        return self

    def forward(self, **inputs: torch.Tensor) -> Answer:
        names = [output.name for output in self.proto.graph.output]
        self._require_stated(inputs)
        given = {name: tensor.numpy() for name, tensor in {**self._left_out(inputs), **inputs}.items()}
        values = evaluate(self.evaluator, names, given)
        return Answer({name: torch.as_tensor(np.asarray(value)) for name, value in zip(names, values, strict=True)})

    def _require_stated(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Refuse lengths other than those that the file states, as runtimes do: the evaluator itself takes any."""
        for name, spec in self._inputs():
            stated = [axis.dim_value for axis in spec.shape.dim]
            given = list(inputs[name].shape) if name in inputs else stated
            if len(given) != len(stated) or any(0 < want != got for want, got in zip(stated, given, strict=True)):
                raise ValueError(f"input {name!r} is of shape {given}, and the file states {stated}")

    def _left_out(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the masks and token types of a text that were left out, as transformers' models make them."""
        ids = inputs.get(_IDS_OF_TEXT)
        if ids is None:
            return {}
        found = {}
        for name, spec in self._inputs():
            default = text_default(name, len(spec.shape.dim)) if name not in inputs else None
            if default is not None:
                filled = np.full(tuple(ids.shape), default == "ones", _numpy_type(spec.elem_type))
                found[name] = torch.from_numpy(filled)
        return found

    def samples(self) -> Arrays:
        """Return one call's inputs: ids within the tables that they index, masks of ones, floats around zero; at the
        first of the usual lengths at which the graph runs."""
        return dict(self._usual)

    @cached_property
    def _usual(self) -> Arrays:
        lengths = _LENGTHS if self._edge is None else (self._edge, *_LENGTHS)
        first, others = lengths[0], lengths[1:]
        usual = self._samples(first)
        if self._runs(usual) or self._shapes(first) == self._shapes(others[0]):
            return usual
        small = (n for n in others if all(prod(shape) <= _MOST for shape in self._shapes(n).values()))
        return next((made for made in map(self._samples, small) if self._runs(made)), usual)

    def _samples(self, length: int) -> Arrays:
        rng, shapes = np.random.default_rng(0), self._shapes(length)
        return {name: self._sample(name, spec, shapes[name], rng) for name, spec in self._inputs()}

    def _shapes(self, length: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each input where axes that vary have this length, and the first one two rows."""
        found = {}
        for name, spec in self._inputs():
            stated = [axis.dim_value for axis in spec.shape.dim]
            if len(stated) > 1 and not stated[1]:
                stated[1] = channels_of(self.proto, name) or 0
            found[name] = tuple(size if size > 0 else (length if index else _ROWS) for index, size in enumerate(stated))
        return found

    def _runs(self, samples: ArrayMapping) -> bool:
        try:
            self(**{name: torch.as_tensor(array) for name, array in samples.items()})
        except Exception as error:  # noqa: BLE001 - operators raise errors of any type for lengths that do not fit
            log.debug("%s does not run on %s: %r", self.who, {name: a.shape for name, a in samples.items()}, error)
            return False
        return True

    def _inputs(self) -> Iterator[tuple[str, Any]]:
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        for value in self.proto.graph.input:
            if value.name not in constants:
                yield value.name, value.type.tensor_type

    def _sample(self, name: str, spec: Any, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
        dtype = _numpy_type(spec.elem_type)
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        if "mask" in name:
            return np.ones(shape, dtype=dtype)
        return rng.integers(0, rows_looked_up(self.proto, name) or _IDS, size=shape).astype(dtype)


def _numpy_type(kind: int) -> np.dtype[Any]:
    from onnx.helper import tensor_dtype_to_np_dtype

    found: np.dtype[Any] = tensor_dtype_to_np_dtype(kind)
    return found


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
        self.processor = self.passed_processor = processor

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
        return fingerprint.of_file(self.path) + "".join(fingerprint.of_file(path) for path in self._external)

    @cached_property
    def _module(self) -> OnnxModule:
        edge = self.described.get("image_size")
        return OnnxModule(self.path, f"model {self.name!r}", edge if isinstance(edge, int) else None)

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

    def samples(self) -> Arrays:
        """Return one call's inputs, as the graph itself declares them."""
        return self._module.samples()

    def size(self) -> int:
        """Return the size of its files in bytes."""
        return sum(path.stat().st_size for path in (self.path, *self._external))

    def compare_with_original(self, signature: ModelSignature) -> None:
        """Compare nothing: the file is what was given."""

    def check_outputs(self, signature: ModelSignature) -> None:
        """Compare the graph's outputs with the configuration and the task.

        Raises:
            SourceError: they contradict each other.
        """
        check_outputs(self.described, signature.task, signature.outputs, f"model {self.name!r}")

    @property
    def described_in(self) -> Path | None:
        """The directory with the card of the model; None: it is not known."""
        return None

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
        return ("model.onnx", *copy_external(self._external, self.path, directory))

    @cached_property
    def _external(self) -> list[Path]:
        """The files of external data beside it.

        Raises:
            SourceError: the file is no ONNX, or its external data is missing or lies elsewhere.
        """
        return external_files(read_graph(self.path), self.path)
