"""What core asks of a backend through the hooks, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from optimum_core.types.hardware import Hardware
from optimum_core.types.quantization import QuantizeConfig
from optimum_core.types.state import State, StateSpec
from optimum_core.types.tensors import Array, TensorSpec


@runtime_checkable
class ModelSource(Protocol):
    """The model as its user gave it; weights are read only when `module` is called."""

    @property
    def name(self) -> str:
        """How to speak of it: a directory's or repository's name, or a class name."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of weights and configuration: equal for equal models."""
        ...

    @property
    def format(self) -> str | None:
        """The format that it is in already, such as "onnx"; None: it is torch's own."""
        ...

    def module(self) -> Any:
        """The eager `torch.nn.Module`, in evaluation mode, unpatched."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that was done on the way from the model to an artifact: which hook of which backend, with which
    tool in which version, and the options that decide the result."""

    hook: str
    backend: str
    tool: str
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def branches(self) -> tuple[str, ...]:
        """Places in the model's code where values decide, and where this step took one side for all of them."""
        return tuple(str(place) for place in self.options.get("branches", ()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A model in some format, as files.

    Attributes:
        format: "onnx", "openvino-ir", "torch-export", "torch-inductor", "coreml", "tensorrt-engine", "torch", or a
            third party's own.
        path: the directory that holds the files.
        files: names relative to `path`, with "/" between folders; the one to open first.
        precision: "fp32", "bf16", "fp16", or a quantization scheme.
        steps: how it came to be, oldest first.
        compiled_from: where its own device is absent, what a compiler read, precision and all: that can be evaluated in
            its place. Not kept with it.
        parts: by name ("encoder", "decoder"), where it consists of several graphs; it has no files of its own then.
        state: what it remembers from call to call; None: every call stands alone.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """Turn a model into `format`, written under `output`.

    Attributes:
        precision: of the weights that are written; computing in less is a session's or `optimize`'s affair.
        samples: inputs to trace with, by name; every varying axis has a length of its own, above 1.
        inputs: what goes in, in order; named axes are to vary, numbered ones are fixed.
        outputs: what must come out, in order, named so.
        route: one of the offer's `routes`, or None where it has none.
        opset: the ONNX opset to write, or None.
        output: an empty directory to write into.
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
    route: str | None = None
    opset: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizeRequest:
    """Make `artifact` faster without changing what it computes beyond `precision`; results go under `output`.

    Attributes:
        shapes: lengths of named axes that most calls will have. What is built takes every other shape all the same.
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
    """Quantize `artifact` by `config`; results go under `output`.

    Attributes:
        calibration: batches of inputs by name. It can be iterated over as often as a method needs, gives the same each
            time, and is read lazily: hold no more of it than one batch. None: the scheme wants none, or has none.
        source: the model that the artifact was made from, where there is one.
        format: what to give, one of the offer's for this artifact; None: the only one.
        shortfall: under `config.accuracy_control`: what a session's metric lacks to what was promised, 0.0 where it
            keeps that. It runs the session on all the data that decides. None: nothing was promised.
        seconds: time that a search of the backend's own may take; None: as long as it wants.
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
    """Open `artifact` for inference on `device`.

    Attributes:
        device: the offer's device, with an index where one was asked for ("cuda:1").
        precision: arithmetic to compute in, one of the offer's; the artifact's own weights stay as they are.
        level: an optimization level that the live model is to run at; artifacts have theirs in their steps.
        threads: CPU threads for one call; None: the usable cores.
        streams: calls that may run side by side; None: the backend's choice for latency.
        shapes: lengths of named axes that most calls will have. A session may prepare for them, and takes every other
            all the same.
        source: the live model, where the session opens in the process that accelerated it.
    """

    backend: str
    artifact: Artifact
    device: str
    hardware: Hardware
    precision: str = "fp32"
    level: str | None = None
    threads: int | None = None
    streams: int | None = None
    shapes: tuple[Mapping[str, int], ...] = ()
    source: ModelSource | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """What a session takes, where it does not take named axes at every length.

    Attributes:
        greatest: the longest, by axis.
        only: the shapes that it takes, each with a length for every named axis; empty: all up to the greatest.
    """

    greatest: Mapping[str, int] = field(default_factory=dict)
    only: tuple[Mapping[str, int], ...] = ()

    def takes(self, lengths: Mapping[str, int]) -> bool:
        """Whether a call whose axes have these lengths is taken.

        >>> Lengths(greatest={"sequence": 8}).takes({"batch": 3, "sequence": 9})
        False
        """
        if self.only:
            return any(all(lengths.get(axis) == length for axis, length in shape.items()) for shape in self.only)
        return all(lengths.get(axis, 0) <= longest for axis, longest in self.greatest.items())


@runtime_checkable
class Session(Protocol):
    """A loaded, runnable model. Safe to call from several threads.

    One that does not take every length of its named axes may have `lengths`, a `Lengths`: it is then compared with
    eager at these, and refuses others itself.
    """

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> str:
        """Where it truly runs: "cpu", "cuda:0", …"""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def close(self) -> None:
        """Free what the runtime holds; later calls of `infer` raise `SessionError`."""
        ...


@runtime_checkable
class StatefulSession(Session, Protocol):
    """A session of an artifact that has a `state`."""

    def begin(self, rows: int) -> State:
        """An empty memory for so many rows, independent of every other."""
        ...
