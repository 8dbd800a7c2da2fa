"""`load`: open saved artifacts, local or from a hub, on the machine that they were tuned on or another.

Importing this module is cheap and does not import numpy: the rest is imported when an artifact is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from optimum_core.measure.workload import WorkloadShape
    from optimum_core.runtime.accelerated import AcceleratedModel
    from optimum_core.types import Hardware


def load(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    revision: str | None = None,
    verify_files: bool = True,
    retune: bool = False,
    precision: str | None = None,
    shapes: Sequence[WorkloadShape] | None = None,
    options: Mapping[str, Any] | None = None,
) -> AcceleratedModel:
    """Open a saved artifact. Needs its backend, but torch and transformers only if that backend does.

    Args:
        path: a directory written by `save_pretrained`, or a hub id; also a model that another package converted for the
            runtime of an installed backend, such as a directory of optimum-intel, which is opened unverified.
        target: a backend or device other than it was tuned for ("ort:cuda:0").
        revision: branch, tag or commit, for a hub id.
        verify_files: False skips the sha256 check of files above 4 MB, which reads them entirely.
        retune: measure the fastest way to run it on this machine, verified against the call recorded in the artifact.
        precision: a precision other than it was tuned in; with `retune`, "auto" lets every float precision compete.
        shapes: the workload to retune for.
        options: backend options, instead of those it was tuned with.

    Warns:
        TunedElsewhereWarning: it was tuned on other hardware and runs with those settings, or for a backend that is
            not available and another one runs it, or in a precision that its backend cannot compute in here.

    Raises:
        ArtifactError: the artifact is missing, altered, truncated, unsafe, or of an unknown schema.
        SourceError: a file of another package is damaged, or its runtime refuses it.
        UnavailableError: no installed backend reads it; the message names the package to install.
    """
    from dataclasses import replace

    from optimum_core import artifact as artifacts
    from optimum_core.artifact.names import MANIFEST, as_text
    from optimum_core.errors import ArtifactError
    from optimum_core.hardware import detect
    from optimum_core.plan import FULL_PRECISION
    from optimum_core.plugins import manager
    from optimum_core.runtime.opening import open_model

    directory, links_under = _locate(as_text(path), revision)
    if not (directory / MANIFEST).is_file():
        from optimum_core.models.sources.converted import find_converted
        from optimum_core.runtime.converted import as_artifact, refusals_name_the_source

        if (converted := find_converted(directory, directory.resolve().name)) is not None:
            with refusals_name_the_source(converted.name):
                return load(
                    as_artifact(converted, target=target),
                    target=target,
                    verify_files=verify_files,
                    retune=retune,
                    precision=precision,
                    shapes=shapes,
                    options=options,
                )
        if (held := _held_in(directory)) is not None:
            why = f"it is no artifact of optimum-core: it holds {held.name} and no {MANIFEST}"
            raise ArtifactError(f"model {as_text(path)!r}", why, f"optimum_core.accelerate({as_text(path)!r}) takes it")
    manifest = artifacts.load(directory, verify_files=verify_files, allow_links_under=links_under)
    if retune:
        from optimum_core.search.retune import retune as tuned_here
        from optimum_core.turns import one_at_a_time

        with one_at_a_time():
            manifest = tuned_here(manifest, directory, manager(), precision=precision or FULL_PRECISION, shapes=shapes)
    else:
        manifest = replace(manifest, precision=precision) if precision else manifest
        _say_where_tuned(manifest.hardware, detect())
    return open_model(
        manifest, directory, plugins=manager(), target=target, options=options, is_stated=precision is not None
    )


def _say_where_tuned(there: Hardware, here: Hardware) -> None:
    if (there.cpu, there.gpus, there.npus) == (here.cpu, here.gpus, here.npus):
        return
    import warnings

    from optimum_core.errors import TunedElsewhereWarning

    warnings.warn(
        f"tuned on {_machine(there)}, runs on {_machine(here)}: right, but perhaps not the fastest; "
        "load(…, retune=True) measures again",
        TunedElsewhereWarning,
        stacklevel=3,
    )


def _machine(hardware: Hardware) -> str:
    gpus = "".join(f", {gpu.name}" for gpu in hardware.gpus)
    return f"{hardware.cpu.model} with {hardware.cpu.usable_cores} cores{gpus}"


def _held_in(place: Path) -> Path | None:
    """Return a graph in ONNX or weights of a checkpoint, which `accelerate` takes; None: there are none.

    Raises:
        SourceError: it is a git-lfs pointer, or no ONNX, which `accelerate` would refuse too.
    """
    from optimum_core.artifact.pointers import is_pointer
    from optimum_core.models.sources import files
    from optimum_core.packages import present

    found = [place] if place.is_file() else sorted((*place.glob("*.onnx"), *place.glob("onnx/*.onnx")))
    graph = next((path for path in found if path.suffix == ".onnx"), None)
    if graph is None:
        return files.first_weights(place) if (place / "config.json").is_file() else None
    if is_pointer(graph):
        raise files.refuse_file(graph, f"model {str(place)!r}")
    if present("onnx"):
        from optimum_core.models.sources.onnx_graph import read_graph

        read_graph(graph)
    return graph


def _locate(path: str, revision: str | None) -> tuple[Path, Path | None]:
    from optimum_core.models.sources.files import may_be_repository

    directory = Path(path).expanduser()
    if directory.exists() or not may_be_repository(path):
        return directory.absolute(), None  # files are opened later too, from whatever directory the process is in then
    from optimum_core.runtime.hub import download_artifact

    return download_artifact(path, revision)
