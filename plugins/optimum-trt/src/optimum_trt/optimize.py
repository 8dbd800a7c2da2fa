"""Build of an engine from an ONNX artifact.

The builder uses the precision of the ONNX itself: fp32 as it is, fp16 and bf16 after `typed.convert`, quantized
models by their QuantizeLinear and DequantizeLinear. A quantized model in "fp32" keeps its other arithmetic in fp32; in
"fp16" or "bf16" that arithmetic is converted too.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from optimum_core.backend import foreign_errors, move_into, present, put_beside, read_options
from optimum_core.errors import ExportError, OptionError, UnavailableError
from optimum_core.types import Artifact, OptimizeRequest, Step
from optimum_trt.build import Plan, build
from optimum_trt.devices import ENGINE, choose_module, local_capability, platform_name
from optimum_trt.dialect import is_quantized, rewrite
from optimum_trt.modules import BACKEND, Capability, Toolkit, load, named
from optimum_trt.options import TrtOptions
from optimum_trt.profiles import Profile, general
from optimum_trt.storage import MODEL, NOTE, Note, digest, write_note
from optimum_trt.typed import NARROW, convert

#: Folder beside an engine with the ONNX that it was built from, where that had to be rewritten.
READ = "read"
_EXACT = "fp32"
_UINT8 = 2  # onnx.TensorProto.UINT8
# A protobuf message ends at 2 GiB, and a conversion may add to it.
_LARGE = 3 * 2**29


def optimize(request: OptimizeRequest) -> Artifact:
    """Build `request.artifact` for `request.device`: "cuda", "cuda:1", or a compute capability such as "sm_89".

    Raises:
        OptionError: the precision, the device or an option is unknown or contradicts another.
        UnavailableError: nothing here builds for that device, or a package is missing.
        ExportError: the ONNX cannot be converted, or TensorRT cannot read or build it; the message names the layer.
    """
    who = f"backend '{BACKEND}', {request.artifact.main_file}"
    if request.level is not None:
        raise OptionError(who, f"unknown level {request.level!r}", "it has none; see the option 'optimization_level'")
    options = read_options(BACKEND, TrtOptions, request.options)
    narrow = _narrow(request, who)
    module, capability = choose_module(request.device, options.module, request.hardware, who)
    toolkit = load(module, who)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=request.output) as folder:
        reading = Path(folder) / READ
        reading.mkdir()
        onnx = prepared(request.artifact, narrow, reading, who)
        plan = Plan(
            who=who,
            onnx=onnx,
            inputs=request.artifact.inputs,
            outputs=request.artifact.outputs,
            capability=capability,
            options=options,
            general=general(request.artifact.inputs, request.shapes, options.ranges, who),
            shapes=request.shapes,
            lengths=_lengths(request.artifact.main_file),
        )
        serialized, profiles = build(toolkit, plan)
        aside = Path(folder) / MODEL
        aside.write_bytes(serialized)
        note = _note(request, toolkit, capability, profiles, memoryview(serialized))
        write_note(Path(folder), note)
        move_into(Path(folder), request.output, (MODEL, NOTE, READ))
    precision = narrow or request.artifact.precision
    return dataclasses.replace(
        request.artifact,
        format=ENGINE,
        path=request.output,
        files=(MODEL, NOTE),
        precision=precision,
        steps=(*request.artifact.steps, _step(note, request)),
        compiled_from=_read(request, onnx.name, precision),
    )


def _read(request: OptimizeRequest, name: str, precision: str) -> Artifact:
    """Return the artifact that the parser read: the given one, or the one made from it."""
    folder = request.output / READ
    if not (folder / name).is_file():
        return request.artifact
    files = (name, *sorted(item.name for item in folder.iterdir() if item.name.startswith(f"{name}.")))
    return dataclasses.replace(request.artifact, path=folder, files=files, precision=precision)


def _narrow(request: OptimizeRequest, who: str) -> str | None:
    """Return the precision that the float arithmetic is converted to; None: it stays."""
    if request.precision == request.artifact.precision:
        return None
    quantized = any(step.hook == "quantize" for step in request.artifact.steps)
    if request.precision == _EXACT and quantized:
        return None
    if request.precision in NARROW and (quantized or request.artifact.precision == _EXACT):
        return request.precision
    why = f"cannot make {request.precision!r} of {request.artifact.precision!r}"
    raise OptionError(who, why, f"ask for the artifact's own precision, or for one of {', '.join(NARROW)} of 'fp32'")


def prepared(artifact: Artifact, narrow: str | None, folder: Path, who: str) -> Path:
    """Return the ONNX file for the parser: the artifact's own, or one in `folder`.

    Args:
        narrow: "fp16" or "bf16", the precision to convert its arithmetic to; None: it stays.

    Raises:
        UnavailableError: onnx is not installed.
        ExportError: it is no ONNX, TensorRT lacks its quantized types, or it cannot be converted.
    """
    if not present("onnx"):
        raise UnavailableError(who, "onnx is not installed", "pip install 'optimum-trt[rtx]'")
    import onnx

    source, size = artifact.main_file, sum(path.stat().st_size for path in _present(artifact))
    large = size > _LARGE

    def save(model: Any, name: str) -> Path:
        if large:
            put_beside(model.graph, f"{name}.data")
        onnx.save_model(model, folder / name)
        return folder / name

    with foreign_errors(who, ExportError, "export the model again", doing="it cannot be read as ONNX"):
        graph = onnx.load(source, load_external_data=False).graph
        _check_quantized(graph, who)
        if is_quantized(graph):
            source = save(rewrite(onnx.load(source)), "readable.onnx")
        return source if narrow is None else save(convert(source, narrow, who), "typed.onnx")


def _present(artifact: Artifact) -> list[Path]:
    return [path for path in (artifact.path / name for name in artifact.files) if path.is_file()]


def _check_quantized(graph: Any, who: str) -> None:
    """Check that integers are signed and symmetric: TensorRT's parser reads unsigned ones as if they were signed."""
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    zeros = {node.input[2] for node in pairs if len(node.input) > 2}
    unsigned = [item.name for item in graph.initializer if item.name in zeros and item.data_type == _UINT8]
    if unsigned:
        why = f"it is quantized to unsigned 8-bit integers (zero point {unsigned[0]!r}), which TensorRT does not have"
        raise ExportError(who, why, "quantize with activations 'int8' and symmetric=True")


def _lengths(path: Path) -> frozenset[int]:
    """Return the lengths of the model's constants: a table of positions has as many rows as an axis may be long."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    constants = [*graph.initializer, *(item.t for node in graph.node for item in node.attribute if item.HasField("t"))]
    return frozenset(length for item in constants for length in item.dims if length > 1)


def _note(
    request: OptimizeRequest,
    toolkit: Toolkit,
    capability: Capability | None,
    profiles: tuple[Profile, ...],
    plan: memoryview,
) -> Note:
    target = capability or local_capability(request.device, request.hardware)
    shapes = [
        {spec.name: [list(shape) for shape in profile.shapes(spec)] for spec in request.artifact.inputs}
        for profile in profiles
    ]
    return Note(
        module=toolkit.module.package,
        version=toolkit.version,
        platform=platform_name(),
        capability=f"{target[0]}.{target[1]}",
        ahead=capability is not None,
        portable=toolkit.module.portable,
        precision=request.precision,
        profiles=tuple(shapes),
        sha256=digest(plan),
        size=plan.nbytes,
    )


def _step(note: Note, request: OptimizeRequest) -> Step:
    stated = {name: str(value) if isinstance(value, Path) else value for name, value in request.options.items()}
    options = {
        "device": request.device,
        "precision": request.precision,
        "capability": note.capability,
        "platform": note.platform,
        "ahead": note.ahead,
        "profiles": [dict(profile) for profile in note.profiles],
        "sha256": note.sha256,
        **stated,
    }
    tool = named(note.module).distribution
    return Step(hook="optimize", backend=BACKEND, tool=tool, version=note.version, options=options)
