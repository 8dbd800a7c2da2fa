"""Sessions of an engine. The engine's origin is checked first, then its bytes; only then is it deserialized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimum_core.backend import check_names, read_input, read_options
from optimum_core.errors import ArtifactError, InputError, SessionError, UnavailableError
from optimum_core.types import Array, Artifact, Hardware, SessionRequest, TensorSpec
from optimum_trt.contexts import Context, Engine, Given, Pool
from optimum_trt.cuda import Cuda
from optimum_trt.devices import ENGINE, index_of, platform_name, running_problem
from optimum_trt.dlpack import CPU, GPU, View, read
from optimum_trt.modules import BACKEND, MODULES, Found, Toolkit, capability_of, find, load, named, sm
from optimum_trt.options import TrtOptions
from optimum_trt.storage import Note, read_engine, read_note

_REBUILD = "build it again here: accelerate(model, target='trt'), from the model that the artifact names"


def open_session(request: SessionRequest) -> TrtSession:
    """Open an engine on the GPU that `request.device` names.

    Raises:
        OptionError: an unknown option or device.
        ArtifactError: the engine is not the one that was built.
        UnavailableError: there is no GPU here, or the engine's module is missing.
        SessionError: the engine belongs to another version, system or GPU, or TensorRT or CUDA refused it.
    """
    artifact, who = request.artifact, f"backend '{BACKEND}', {request.artifact.main_file}"
    options = read_options(BACKEND, TrtOptions, request.options)
    index_of(request.device, who)
    if artifact.format != ENGINE:
        raise SessionError(who, f"it is {artifact.format!r}, not an engine", f"build one: target '{BACKEND}'")
    note = read_note(artifact.path, who)
    found = check_origin(note, who)
    index = _gpu(request, note, found, who)
    plan = read_engine(artifact.main_file, note, who)
    toolkit = load(found.module, who)
    cuda = Cuda(index, who)
    check_gpu(note, cuda.capability, who)
    return TrtSession(request, options, note, plan, toolkit, cuda)


def check_origin(note: Note, who: str) -> Found:
    """Check that the module that built the engine is installed here, in its version, on its system.

    Raises:
        ArtifactError: the module that built it is unknown.
        UnavailableError, SessionError: the module, version or system differs.
    """
    if note.module not in (module.package for module in MODULES):
        raise ArtifactError(who, f"it names {note.module!r} as what built it", "build the engine again")
    module = named(note.module)
    found = next((item for item in find() if item.module is module), None)
    if found is None:
        why = f"it was built with {module.package} {note.version}, which is not installed"
        raise UnavailableError(who, why, f"pip install {module.distribution}=={note.version}")
    if found.version != note.version:
        why = f"it was built with {module.package} {note.version}, which {found.version}, installed here, does not read"
        raise SessionError(who, why, f"pip install {module.distribution}=={note.version}, or {_REBUILD}")
    if not note.portable and note.platform != platform_name():
        raise SessionError(who, f"it was built on {note.platform}, and this is {platform_name()}", _REBUILD)
    return found


def check_gpu(note: Note, capability: tuple[int, int], who: str) -> None:
    """Check that the engine was built for a GPU like this.

    Raises:
        SessionError: it was not.
    """
    if note.compute_capability not in ((0, 0), capability):
        why = f"it was built for {sm(note.compute_capability)}, and this GPU is {sm(capability)}"
        raise SessionError(who, why, f"use a GPU of that kind, or {_REBUILD}")


def _gpu(request: SessionRequest, note: Note, found: Found, who: str) -> int:
    """Return the index of the GPU to open it on."""
    if (problem := running_problem((found,), request.hardware)) is not None:
        why = f"the engine for {sm(note.compute_capability)} does not run here: {problem.reason}"
        raise UnavailableError(who, why, problem.remedy)
    capability = capability_of(request.device)
    if capability is None:
        return index_of(request.device, who)
    index = _like(capability, request.hardware)
    if index is None:
        why = f"no GPU of the kind {sm(capability)} is here"
        raise UnavailableError(who, why, f"open it on a machine with one, or {_REBUILD}")
    return index


def _like(capability: tuple[int, int], hardware: Hardware) -> int | None:
    gpus = [gpu for gpu in hardware.gpus if gpu.vendor == "nvidia"]
    return next((index for index, gpu in enumerate(gpus) if gpu.compute_capability == capability), None)


class TrtSession:
    """An open engine on one GPU. Calls may come from several threads at once; `close` waits for none of them.

    One call runs per context: `options.contexts` of them, else `request.streams`, else one. For each of
    `request.shapes`, buffers are allocated before the first call.

    Raises:
        SessionError, OptionError: the engine, its inputs and outputs, or an option is not as stated.
    """

    backend = BACKEND

    def __init__(
        self, request: SessionRequest, options: TrtOptions, note: Note, plan: bytes, toolkit: Toolkit, cuda: Cuda
    ) -> None:
        artifact = request.artifact
        self._who = f"backend '{BACKEND}', {artifact.main_file}"
        self.inputs: tuple[TensorSpec, ...] = artifact.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.outputs
        self.device = f"cuda:{cuda.index}"
        self._names = tuple(spec.name for spec in self.inputs)
        self._toolkit, self._options = toolkit, options
        native = toolkit.engine(plan, self._who)
        check_interface(native, artifact, self._who)
        if options.refit_from is not None:
            toolkit.refit(native, options.refit_from, self._who)
        if options.weight_budget is not None:
            toolkit.stream_weights(native, options.weight_budget, self._who)
        self._config = toolkit.runtime_config(
            native, graphs=options.cuda_graphs, cache=options.runtime_cache, who=self._who
        )
        engine = Engine(
            who=self._who,
            cuda=cuda,
            new_context=lambda: toolkit.context(native, self._config),
            inputs=self.inputs,
            outputs=self.outputs,
            profiles=note.profiles,
            capture=options.cuda_graphs and self._config is None,
            most_shapes=max(options.most_shapes, len(request.shapes)),
            said=toolkit.log.said,
        )
        contexts = [Context(engine) for _ in range(options.contexts or request.streams or 1)]
        for context in contexts:
            for lengths in request.shapes:
                if (shapes := _stated(self.inputs, lengths)) is not None:
                    context.bind(shapes)
        self._pool = Pool(contexts, self._who)

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return outputs by name: on the host where all inputs are there, else in device memory, complete on return.

        Raises:
            InputError: a name is missing or unknown, or a value has the wrong type or a shape that no profile takes.
            SessionError: TensorRT or CUDA failed, or the session is closed.
        """
        check_names(self._who, self._names, inputs)
        with self._pool.taken() as context:
            given = [self._given(spec, inputs[spec.name], context.stream) for spec in self.inputs]
            return context.run(given)

    def close(self) -> None:
        """Free the engine and its contexts, and save the kernels compiled while running where that was requested."""
        self._pool.close()
        self._toolkit.keep_runtime_cache(self._config, self._options.runtime_cache)
        self._config = None

    def _given(self, spec: TensorSpec, value: Any, stream: int) -> Given:
        """Return a caller's input as an array on the host or a view of device memory, of the input's type."""
        where = f"on the host or on {self.device!r}"
        given = read_input(self._who, spec.name, value, lambda value: _read(value, stream), where)
        found = given.dtype if isinstance(given, View) else given.dtype.name
        if found != spec.dtype:
            raise InputError(self._who, f"input {spec.name!r} is {found}, not {spec.dtype}", f"pass {spec.dtype}")
        return given


def _read(value: Any, stream: int) -> Given:
    if isinstance(value, np.ndarray):
        return value
    kind, _ = value.__dlpack_device__()
    if int(kind) == CPU:
        return np.from_dlpack(value)
    if int(kind) != GPU:
        raise ValueError(f"it is on a device of DLPack's kind {int(kind)}")
    # The producing library gets our stream, and makes it wait until the values are there.
    view = read(value.__dlpack__(stream=stream))
    if not view.contiguous:
        raise ValueError("its elements do not lie in one piece")
    return view


def check_interface(native: Any, artifact: Artifact, who: str) -> None:
    """Check that the engine has the artifact's inputs and outputs.

    Raises:
        SessionError: it does not.
    """
    found = {native.get_tensor_name(index) for index in range(native.num_io_tensors)}
    said = {spec.name for spec in (*artifact.inputs, *artifact.outputs)}
    if found != said:
        different = ", ".join(sorted(found ^ said))
        raise SessionError(who, f"engine and manifest differ in {different}", "build the engine again")


def _stated(inputs: tuple[TensorSpec, ...], lengths: Mapping[str, int]) -> tuple[tuple[int, ...], ...] | None:
    """Return the inputs' shapes at these lengths; None where some are not stated."""
    if any(axis not in lengths for spec in inputs for axis in spec.dynamic_axes.values()):
        return None
    return tuple(tuple(axis if isinstance(axis, int) else lengths[axis] for axis in spec.shape) for spec in inputs)
