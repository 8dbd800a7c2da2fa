"""Adapter to `tensorrt` and `tensorrt_rtx`: the one module that knows their differences.

Detection is light: package metadata only. `load` imports one; every difference of the interfaces is a method of
`Toolkit`, and the common part is used through `Toolkit.native`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.backend import present, versions
from optimum_core.errors import OptionError, SessionError, UnavailableError

BACKEND = "trt"
Capability = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """One of the two packages, with its characteristics.

    Attributes:
        package: the name to import.
        distribution: the name to install.
        owners: distributions that may own the package and state its version.
        least: the oldest compute capability that it runs on.
        ahead: those that it builds for without such a GPU; empty: it builds for the local GPU only.
        lacks: those that it neither builds for nor runs on, though newer than `least`.
        portable: an engine may be moved to another operating system.
        times: it times kernels while it builds, and keeps the times in a cache.
        compiles_late: kernels are compiled when a context runs, and kept in a cache; it replays CUDA graphs by itself.
        refits_anywhere: an engine that takes other weights is built without a GPU too.
    """

    package: str
    distribution: str
    owners: tuple[str, ...]
    least: Capability
    ahead: tuple[Capability, ...] = ()
    lacks: tuple[Capability, ...] = ()
    portable: bool = False
    times: bool = False
    compiles_late: bool = False
    refits_anywhere: bool = False

    def runs_on(self, capability: Capability) -> bool:
        """Whether engines of it run on such a GPU."""
        return capability >= self.least and capability not in self.lacks


TENSORRT = Module(
    package="tensorrt",
    distribution="tensorrt",
    owners=("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings", "tensorrt-cu12-bindings"),
    least=(7, 5),
    times=True,
)
RTX = Module(
    package="tensorrt_rtx",
    distribution="tensorrt-rtx",
    owners=("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings"),
    least=(7, 5),
    ahead=((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
    # GPUs of data centres and of boards, which have no member in its enumeration of capabilities.
    lacks=((8, 7), (9, 0), (10, 0), (10, 1), (10, 3), (11, 0)),
    portable=True,
    compiles_late=True,
)
#: In order of preference on a GPU that both run on: the first optimizes for that very GPU.
MODULES = (TENSORRT, RTX)


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An installed module, according to package metadata."""

    module: Module
    version: str


def find() -> tuple[Found, ...]:
    """Return the installed modules, without importing them."""
    installed = (module for module in MODULES if present(module.package))
    return tuple(Found(module=module, version=_version(module)) for module in installed)


def named(package: str) -> Module:
    """Return the module of that package, whether installed or not."""
    return next(module for module in MODULES if module.package == package)


def sm(capability: Capability) -> str:
    """Return the device name of a compute capability: "sm_89"."""
    return f"sm_{capability[0]}{capability[1]}"


def capability_of(device: str) -> Capability | None:
    """Return the capability that a device such as "sm_89" names; None for others.

    >>> capability_of("sm_120")
    (12, 0)
    """
    digits = device.removeprefix("sm_")
    if device == digits or not digits.isdecimal() or len(digits) < 2:
        return None
    return int(digits[:-1]), int(digits[-1])


def load(module: Module, who: str) -> Toolkit:
    """Import a module.

    Raises:
        UnavailableError: it is not installed, too old, or its libraries cannot be loaded.
    """
    try:
        native = importlib.import_module(module.package)
        version = str(native.__version__)
    except (ImportError, OSError, AttributeError) as error:
        remedy = f"pip install {module.distribution}, and see that `python -c 'import {module.package}'` works"
        raise UnavailableError(who, f"{module.package} cannot be imported: {error}", remedy) from error
    if module is TENSORRT and int(version.partition(".")[0]) < 10:
        raise UnavailableError(who, f"tensorrt {version} is too old", "pip install 'tensorrt>=10'")
    return Toolkit(module, native, version)


class Toolkit:
    """One of the modules, imported."""

    def __init__(self, module: Module, native: Any, version: str) -> None:
        self.module = module
        self.native = native
        self.version = version
        self.log = _log_class(native)()

    @property
    def label(self) -> str:
        """Name and version, for messages."""
        return f"{self.module.package} {self.version}"

    # While building.

    def network(self, builder: Any) -> Any:
        """Return an empty network with the types of the ONNX, not the builder's choice."""
        flags = self.native.NetworkDefinitionCreationFlag
        # Where the builder can no longer choose types, the flag is gone or has no effect.
        strong = getattr(flags, "STRONGLY_TYPED", None) if self.module is TENSORRT else None
        return builder.create_network(0 if strong is None else 1 << int(strong))

    def aim(self, config: Any, capability: Capability | None, who: str) -> None:
        """Build for that compute capability; None: for the local GPU.

        Raises:
            UnavailableError: this module does not build for it.
        """
        if self.module is TENSORRT:
            if capability is not None:
                raise UnavailableError(who, *foreign(self.module, capability))
            return
        known = self.native.ComputeCapability.__members__
        name = "CURRENT" if capability is None else sm(capability).replace("sm_", "SM")
        if capability is not None and name not in known:
            raise UnavailableError(who, *foreign(self.module, capability))
        config.num_compute_capabilities = 1
        config.set_compute_capability(known[name], 0)

    def flag(self, config: Any, name: str, on: bool, who: str) -> None:
        """Set or clear a builder flag of that name.

        Raises:
            OptionError: it has to be set, and this version does not have it.
        """
        flag = self.native.BuilderFlag.__members__.get(name)
        if flag is None:
            if on:
                raise OptionError(who, f"{self.label} has no builder flag {name}", "leave the option out")
        elif on:
            config.set_flag(flag)
        else:
            config.clear_flag(flag)

    @contextmanager
    def timing_cache(self, config: Any, path: Path | None, who: str) -> Iterator[None]:
        """Load times of kernels from `path` and write them back afterwards: to a temporary file and moved, so that
        builds may share it.

        Raises:
            OptionError: this module measures no kernel times.
        """
        if path is None:
            yield
            return
        if not self.module.times:
            why = f"{self.module.package} times no kernels while it builds, so it keeps no timing cache"
            raise OptionError(who, why, "leave 'timing_cache' out; 'runtime_cache' keeps compiled kernels")
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
        config.set_timing_cache(cache, False)
        yield
        replace_file(path, bytes(config.get_timing_cache().serialize()))

    # While running. Nothing below has been run: it needs a GPU.

    def engine(self, plan: bytes, who: str) -> Any:
        """Return the engine in `plan`, whose origin was checked.

        Raises:
            SessionError: it does not belong to this version and this GPU.
        """
        self.log.errors.clear()
        runtime = self.native.Runtime(self.log)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            why = f"{self.label} refused it: {self.log.said()}"
            raise SessionError(who, why, "build the engine again on this machine")
        return engine

    def refit(self, engine: Any, onnx: Path, who: str) -> None:
        """Give the engine the weights of an ONNX model.

        Raises:
            SessionError: it was not built for that, or the weights are not its own.
        """
        if not engine.refittable:
            raise SessionError(who, "the engine keeps its weights", "build it with the option 'refit'")
        refitter = self.native.Refitter(engine, self.log)
        parser = self.native.OnnxParserRefitter(refitter, self.log)
        if not (parser.refit_from_file(str(onnx)) and refitter.refit_cuda_engine()):
            why = f"the weights of {onnx} do not fit the engine: {self.log.said()}"
            raise SessionError(who, why, "give the ONNX model that the engine was built from, with other weights")

    def stream_weights(self, engine: Any, budget: int, who: str) -> None:
        """Keep at most `budget` bytes of weights on the GPU. Call it before contexts are made.

        Raises:
            SessionError: the engine was not built for that.
        """
        if not getattr(engine, "streamable_weights_size", 0):
            raise SessionError(who, "the engine does not stream weights", "build it with the option 'weight_streaming'")
        engine.weight_streaming_budget_v2 = budget

    def runtime_config(self, engine: Any, *, graphs: bool, cache: Path | None, who: str) -> Any:
        """Return the settings of contexts, where the module compiles and replays by itself; None elsewhere.

        Raises:
            OptionError: a cache is requested, and this module compiles nothing when it runs.
        """
        if not self.module.compiles_late:
            if cache is not None:
                why = f"{self.module.package} compiles nothing when it runs, so it keeps no runtime cache"
                raise OptionError(who, why, "leave 'runtime_cache' out")
            return None
        config = engine.create_runtime_config()
        strategies = self.native.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if graphs else strategies.DISABLED
        if cache is not None:
            kept = config.create_runtime_cache()
            if cache.is_file():
                kept.deserialize(cache.read_bytes())
            config.set_runtime_cache(kept)
        return config

    def context(self, engine: Any, config: Any) -> Any:
        """Return one execution context, which runs one call at a time."""
        return engine.create_execution_context() if config is None else engine.create_execution_context(config)

    def keep_runtime_cache(self, config: Any, path: Path | None) -> None:
        """Write the kernels compiled while running, to a temporary file that is then moved."""
        if config is not None and path is not None:
            replace_file(path, bytes(config.get_runtime_cache().serialize()))


def foreign(module: Module, capability: Capability) -> tuple[str, str]:
    """Return why a module does not build for a GPU that is not here, and what to do."""
    name = sm(capability)
    if not module.ahead:
        why = f"{module.package} builds for the GPU at hand only, and {name} is not here"
        return why, f"pip install {RTX.distribution}, or build on a machine with such a GPU"
    builds = ", ".join(map(sm, module.ahead))
    return f"{module.package} does not build for {name}; it builds for {builds}", elsewhere(capability)


def elsewhere(capability: Capability) -> str:
    """Return the remedy for a GPU that tensorrt_rtx does not support."""
    runs = "on a machine with such a GPU: tensorrt (pip install tensorrt), target 'ort:cuda' with onnxruntime-gpu, or "
    name = {(9, 0): " (H100, H200)", (10, 0): " (B200)", (10, 3): " (B300)"}.get(capability, "")
    return f"for {sm(capability)}{name}, {runs}the eager model on CUDA"


def replace_file(path: Path, content: bytes) -> None:
    """Write to a temporary file and move it, so that a reader sees the whole file or the former one."""
    import os
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _version(module: Module) -> str:
    return next(iter(versions(module.owners).values()), "unknown")


def _log_class(native: Any) -> Any:
    """Return a logger class that prints nothing and keeps errors; its base class is the module's own."""
    import logging

    quiet = logging.getLogger(__name__)

    class Log(native.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            native.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (native.ILogger.ERROR, native.ILogger.INTERNAL_ERROR):
                self.errors.append(message)
            quiet.debug("%s: %s", severity, message)

        def said(self) -> str:
            return "; ".join(self.errors) or "no reason given"

    return Log
