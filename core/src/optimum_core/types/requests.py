"""Requests that core passes to a backend's hooks, and the results of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from optimum_core.types.hardware import Hardware
from optimum_core.types.quantization import QuantizeConfig
from optimum_core.types.state import State, StateSpec
from optimum_core.types.tensors import MODULES, SENTENCE, TOKENS, Array, TensorSpec


@runtime_checkable
class ModelSource(Protocol):
    """The model as the caller passed it; weights are read only when `module` is called."""

    @property
    def name(self) -> str:
        """The name for messages: of a directory, a repository or a class."""
        ...

    @property
    def fingerprint(self) -> str:
        """The sha256 of weights and configuration: equal for equal models."""
        ...

    @property
    def format(self) -> str | None:
        """The format that it is already in, such as "onnx"; None: a torch model."""
        ...

    def module(self) -> Any:
        """Return the eager `torch.nn.Module`, in evaluation mode, unpatched."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step from the model to an artifact: the hook and its backend, the tool and its version, and the options that
    determine the result."""

    hook: str
    backend: str
    tool: str
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> tuple[str, ...]:
        """Places in the model with data-dependent branches of which this step took one side for all values."""
        return tuple(str(place) for place in self.options.get("branches", ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A model in some format, stored as files.

    Attributes:
        format: "onnx", "openvino-ir", "torch-export", "torch-inductor", "coreml", "tensorrt-engine", "torch", or a
            third party's own.
        path: the directory that holds the files.
        files: names relative to `path`, with "/" between folders; the one to open first.
        precision: "fp32", "bf16", "fp16", or a quantization scheme.
        steps: the steps that made it, oldest first.
        compiled_from: if its device is absent, the artifact that the compiler read, with the same precision, which can
            be evaluated in its place. Not saved with it.
        parts: the graphs of a generative model by name, at least a "decoder"; it then has no own files, and `inputs`
            and `outputs` are those of the original's call.
        state: the state that it keeps from call to call; None: calls are independent.
    """

    format: str
    path: Path
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str = "fp32"
    steps: tuple[Step, ...] = ()
    compiled_from: Artifact | None = None
    parts: Mapping[str, Artifact] = field(default_factory=dict)
    state: StateSpec | None = None

    @property
    def main_file(self) -> Path:
        """The file that a runtime opens."""
        return self.path / self.files[0]

    @property
    def pools_by_modules(self) -> bool:
        """Whether it gives the vectors of a text and of its tokens, and the list of its modules lies beside it, by
        which other packages pool behind the graph."""
        return {spec.name for spec in self.outputs}.issuperset((SENTENCE, TOKENS)) and (self.path / MODULES).is_file()


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """Request to export a model to `format`, written under `output`.

    Attributes:
        backend: the backend that is asked; a hook returns None where this is not its own.
        source: the model; its `module()` is the eager one.
        task: what the model is for, such as "text-classification"; "custom" for a plain module.
        format: one of the formats that the offer exports.
        precision: precision of the weights written; lower arithmetic is left to the session or to `optimize`.
        samples: inputs to trace with, by name; every varying axis has a distinct length above 1.
        inputs: the inputs, in order; named axes must vary, numbered ones are fixed.
        outputs: the outputs to produce, in this order and with these names.
        state: for a decoder with a cache: its state. The result is an artifact with this state; `samples` then hold
            `state.past` too. None: calls are independent.
        part: the part of the model to export, one of `types.state.PARTS`; "": the whole model in one graph.
        route: one of the offer's `routes`, or None where it has none.
        opset: the ONNX opset to write, or None.
        output: an empty directory to write into.
        options: all options that the user passed for this backend.
    """

    backend: str
    source: ModelSource
    task: str
    format: str
    precision: str
    samples: Mapping[str, Array]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output: Path
    state: StateSpec | None = None
    part: str = ""
    route: str | None = None
    opset: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizeRequest:
    """Request to make `artifact` faster with the same outputs within `precision`; results are written under `output`.

    Attributes:
        backend: the backend that is asked; a hook returns None where this is not its own.
        artifact: the files to read, which stay as they are.
        device: the device on which the result will run.
        precision: the arithmetic of the result, one of the offer's.
        hardware: facts about this machine.
        output: the directory to write into.
        level: one of the offer's levels; None: the request is a conversion, or asks for none.
        shapes: lengths of named axes that most calls will have. The result must accept all other shapes as well.
        options: all options that the user passed for this backend, those for sessions too.
    """

    backend: str
    artifact: Artifact
    device: str
    precision: str
    hardware: Hardware
    output: Path
    level: str | None = None
    shapes: tuple[Mapping[str, int], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeRequest:
    """Request to quantize `artifact` by `config`; results are written under `output`.

    Attributes:
        backend: the backend that is asked; a hook returns None where this is not its own.
        artifact: the files to read, which stay as they are.
        hardware: facts about this machine.
        output: the directory to write into.
        calibration: batches of inputs by name. It can be iterated over repeatedly, gives the same batches each time,
            and is read lazily: hold at most one batch. None: the scheme needs none, or there is none.
        source: the model that the artifact was made from, where there is one.
        format: the format to produce, one of the offer's for this artifact; None: the only one.
        shortfall: under `config.accuracy_control`, a function that runs a session on all evaluation data and returns
            by how much its metric misses the promise, 0.0 where it keeps it. None: there is no promise.
        seconds: time limit for a search by the backend itself; None: unlimited.
        options: all options that the user passed for this backend.
    """

    backend: str
    artifact: Artifact
    config: QuantizeConfig
    hardware: Hardware
    output: Path
    calibration: Iterable[Mapping[str, Array]] | None = None
    source: ModelSource | None = None
    format: str | None = None
    shortfall: Callable[[Session], float] | None = None
    seconds: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRequest:
    """Request to open `artifact` for inference on `device`.

    Attributes:
        backend: the backend that is asked; a hook returns None where this is not its own.
        hardware: facts about this machine.
        device: the offer's device, with an index where one was asked for ("cuda:1").
        precision: precision of the arithmetic, one of the offer's; the artifact's weights are unchanged.
        level: optimization level at which to run the eager model; artifacts record theirs in their steps.
        threads: CPU threads for one call; None: the usable cores.
        streams: number of concurrent calls; None: the backend's choice for latency.
        shapes: lengths of named axes that most calls will have. A session may prepare for them, but must accept all
            other shapes as well.
        source: the eager model, where the session opens in the process that accelerated it.
        part: the name of the part of a generative model that `artifact` is; "": it is a model of one graph.
        options: all options that the user passed for this backend.
    """

    backend: str
    artifact: Artifact
    device: str
    hardware: Hardware
    precision: str = "fp32"
    part: str = ""
    level: str | None = None
    threads: int | None = None
    streams: int | None = None
    shapes: tuple[Mapping[str, int], ...] = ()
    source: ModelSource | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def concurrent(streams: int) -> int | None:
    """Return a request's `streams` for a tuned number of concurrent calls: one call is left to the backend."""
    return streams if streams > 1 else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """The lengths of named axes that a session accepts, where it does not accept every length.

    Attributes:
        greatest: the greatest length, by axis.
        only: the shapes that it accepts, each with a length for every named axis; empty: all up to the greatest.
    """

    greatest: Mapping[str, int] = field(default_factory=dict)
    only: tuple[Mapping[str, int], ...] = ()

    def takes(self, lengths: Mapping[str, int]) -> bool:
        """Whether a call whose axes have these lengths is accepted.

        >>> Lengths(greatest={"sequence": 8}).takes({"batch": 3, "sequence": 9})
        False
        """
        if self.only:
            return any(all(lengths.get(axis) == length for axis, length in shape.items()) for shape in self.only)
        return all(lengths.get(axis, 0) <= longest for axis, longest in self.greatest.items())


@runtime_checkable
class Session(Protocol):
    """A loaded, runnable model. Thread-safe.

    A session that does not accept every length of its named axes may have an attribute `lengths`, a `Lengths`: it is
    then compared with eager at these lengths, and must reject others itself.

    A session whose graph the runtime may run beyond the memory of its tensors, if an export wrote constants of one call
    into it, may have an attribute `crash_prone`, True: it is then compared in a child process first.

    A session may have a method `direct`: what `infer` does for numpy arrays of the inputs' types, C-contiguous or not,
    with the outputs as a sequence in the order of `outputs`. It is called where no plugin wraps `infer`, which saves a
    few functions in each call; where it raises, `infer` is called and words the error. Its arrays are new in each call;
    before its first answer it is compared with `infer`, and not called again if they differ.
    """

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> str:
        """The device it actually runs on ("cpu", "cuda:0", …)."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def close(self) -> None:
        """Free the runtime's resources; later calls of `infer` raise `SessionError`."""
        ...


@runtime_checkable
class StatefulSession(Session, Protocol):
    """A session of an artifact that has a `state`."""

    def begin(self, rows: int) -> State:
        """Return an empty state for this number of rows, independent of all others."""
        ...
