"""Opening of an OpenVINO IR that another package wrote: inputs and outputs from its XML, and nothing compared.

Any backend that loads the format runs it. There is no reading of the file beside that backend's own, so the model
says that it is unverified.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from optimum_core.artifact import Manifest
from optimum_core.artifact.integrity import describe
from optimum_core.artifact.manifest import ModelInfo
from optimum_core.artifact.store import write
from optimum_core.artifact.structure import Structure
from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.packages import present
from optimum_core.plan import FULL_PRECISION, parse_target
from optimum_core.plugins import PluginManager, manager
from optimum_core.types import TensorSpec

CUSTOM = "custom"
FORMAT = "openvino-ir"
_NAME = "openvino_model.xml"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TYPES = {
    "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "i8": "int8",
    "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip


def find_ir(directory: Path) -> Path | None:
    """Return the IR of a directory, or of a folder in it, where there are neither weights for PyTorch nor a manifest;
    None: it holds none."""
    if not directory.is_dir() or any(
        path for pattern in ("optimum.json", *_WEIGHTS) for path in directory.glob(pattern)
    ):
        return None
    return next((path for path in (directory / _NAME, *sorted(directory.glob(f"*/{_NAME}"))) if path.is_file()), None)


def as_artifact(directory: Path, *, target: str | None = None, cache: Cache | None = None) -> Path | None:
    """Return an artifact made of a directory with an IR; None: the directory holds none.

    Raises:
        ArtifactError: as `manifest_of`.
        UnavailableError: as `manifest_of`.
    """
    if (ir := find_ir(directory)) is None:
        return None
    files = files_of(ir, directory)
    manifest = manifest_of(ir, directory, manager(), target)

    def make(place: Path) -> None:
        for name, path in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
        write(place, manifest)

    digests = {name: describe(path).sha256 for name, path in files.items()}
    manifest = replace(manifest, model=replace(manifest.model, fingerprint=content_key(digests)))
    key = content_key({"files": digests, "backend": manifest.backend, "device": manifest.device})
    cache = cache or Cache()
    place = cache.build("converted", key, make, describe=f"{directory.name}, converted already")
    cache.hold(place)
    return place


def manifest_of(ir: Path, directory: Path, plugins: PluginManager, target: str | None) -> Manifest:
    """Return a manifest for an IR beside a `config.json`.

    Raises:
        ArtifactError: it is damaged, or is one of a model with a state or of a type unknown here.
        UnavailableError: no installed backend loads the format.
    """
    who = f"model {directory.name!r}"
    if not ir.with_suffix(".bin").is_file():
        raise ArtifactError(who, f"{ir.with_suffix('.bin').name} is not beside {ir.name}", "copy both files")
    inputs, outputs = _interface(ir, who)
    backend, device = _reader(plugins, target, who)
    items = tuple(Structure(kind="tensor", name=spec.name) for spec in outputs)
    names = tuple(spec.name for spec in outputs)
    return Manifest(
        task=_task(directory),
        model=ModelInfo(
            name=directory.name,
            fingerprint="",
            structure=Structure(kind="dict", keys=names, items=items),
            main_input=inputs[0].name,
            has_original=False,
        ),
        backend=backend,
        device=device,
        format=FORMAT,
        precision=FULL_PRECISION,
        inputs=inputs,
        outputs=outputs,
        verified=False,
        hardware=detect(),
        model_files=(_NAME, Path(_NAME).with_suffix(".bin").name),
    )


def _reader(plugins: PluginManager, target: str | None, who: str) -> tuple[str, str]:
    """Return the backend and the device that load the format."""
    wanted = parse_target(target or "auto")
    for name, support in sorted(plugins.supports(detect()).items()):
        for offer in support.offers:
            if FORMAT in offer.loads and wanted.backend in (None, name):
                return name, wanted.device or offer.device
    why = f"it is of the format {FORMAT!r}, which no backend here loads"
    raise UnavailableError(who, why, "pip install optimum-openvino, or give the checkpoint that it was made from")


def _task(directory: Path) -> str:
    """Return the task of the class that the configuration names, where transformers is installed."""
    if not present("transformers"):
        return CUSTOM
    from optimum_core.models.tasks import detect as task_of

    try:
        named = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("architectures") or [""]
    except (OSError, ValueError):
        named = [""]
    return task_of(str(named[0]))


def _interface(ir: Path, who: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    try:
        layers = ElementTree.parse(ir).getroot().findall("layers/layer")
        edges = ElementTree.parse(ir).getroot().findall("edges/edge")
        kinds = {layer.get("id"): layer for layer in layers}
        if any(layer.get("type") in ("ReadValue", "Assign") for layer in layers):
            remedy = "accelerate the checkpoint that it was made from, which generates with its cache"
            raise ArtifactError(who, "it keeps a cache between calls, as models that generate do", remedy)
        inputs = tuple(_spec(layer, "0") for layer in layers if layer.get("type") == "Parameter")
        sources = {edge.get("to-layer"): (edge.get("from-layer"), edge.get("from-port")) for edge in edges}
        results = [sources[layer.get("id")] for layer in layers if layer.get("type") == "Result"]
        return inputs, tuple(_spec(kinds[layer], port) for layer, port in results)
    except (ElementTree.ParseError, KeyError, AttributeError, ValueError, TypeError) as error:
        raise ArtifactError(who, f"{ir.name} cannot be read: {error!r}", "convert the model again") from error


def _spec(layer: Any, port_id: str | None) -> TensorSpec:
    """Return the specification of a layer's output port: its first name, its type, and an axis name where it varies."""
    port = next(port for port in layer.findall("output/port") if port.get("id") == port_id)
    name = (port.get("names") or layer.get("name")).split(",")[0]
    return TensorSpec(
        name=name, dtype=_TYPES[str(port.get("precision")).lower().replace("fp", "f")], shape=tuple(_axes(port, name))
    )


def _axes(port: Any, name: str) -> Iterator[int | str]:
    for index, axis in enumerate(port.findall("dim")):
        length = int(axis.text)
        yield length if length >= 0 else "batch" if index == 0 else f"{name}_{index}"


def files_of(ir: Path, directory: Path) -> Mapping[str, Path]:
    """Return the files of the artifact, by their name in it."""
    from optimum_core.models.sources.source import companions

    beside = {name: path for name, path in companions(directory).items() if name != "openvino_config.json"}
    return {**beside, _NAME: ir, Path(_NAME).with_suffix(".bin").name: ir.with_suffix(".bin")}
