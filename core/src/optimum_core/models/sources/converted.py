"""Models that another package converted for a backend's runtime, recognized by that backend and opened as they are.

There is no eager model to compare them with, and nothing to export: no search takes place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optimum_core.artifact.integrity import describe
from optimum_core.artifact.names import CHECK_FILE, MANIFEST
from optimum_core.artifact.pointers import is_pointer
from optimum_core.errors import ArtifactError, foreign_errors
from optimum_core.hardware import detect
from optimum_core.models.sources import files
from optimum_core.models.sources.companions import companions, modules_of
from optimum_core.models.sources.sentences.stored import weights_of
from optimum_core.plugins import manager
from optimum_core.types import Artifact, ForeignFormat

_ONNX = "onnx"
_AGAIN = "convert the model again, or give the checkpoint that it was made from"


@dataclass(frozen=True, kw_only=True)
class ConvertedSource:
    """Files of one model in a form that a backend's runtime reads.

    Attributes:
        name: its name in messages.
        directory: holds the configuration, if there is one.
        backend: the backend that recognized it.
        files: the files of the model, the one to open first in front.
    """

    name: str
    directory: Path
    backend: str
    foreign: ForeignFormat
    files: tuple[Path, ...]

    @property
    def form(self) -> str:
        """The form of the files in words."""
        return self.foreign.name

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The sha256 of each file, by its place."""
        found = (*self.files, *{**self.companions(), **weights_of(self.directory)}.values())
        return {os.path.relpath(path, self.directory): describe(path).sha256 for path in found}

    def companions(self) -> dict[str, Path]:
        """Return configuration, tokenizer and processor files, and of a sentence encoder's modules, by their name in an
        artifact."""
        found = {name: path for name, path in companions(self.directory).items() if path not in self.files}
        return {**found, **modules_of(self.directory)}

    def adopt(self, output: Path) -> Artifact:
        """Write the model into an empty directory, as its backend opens it.

        Raises:
            ArtifactError, SourceError: a file is missing or damaged, or the backend cannot take the model.
        """
        with foreign_errors(
            f"model {self.name!r}", ArtifactError, _AGAIN, doing=f"{self.files[0].name} cannot be read"
        ):
            return self.foreign.adopt(self.files, output)


def converted_at(model: str) -> ConvertedSource | None:
    """Return the converted model of a path here; None: there is none, or the path may be a hub id. Raises as
    `find_converted`."""
    path = files.local_path(model)
    return find_converted(path, path.resolve().name) if path.exists() else None


def find_converted(path: Path, name: str) -> ConvertedSource | None:
    """Return the model of a file or directory that a backend recognizes; None: there is none, or there is something
    that it can be compared with (weights for PyTorch, a graph in ONNX), or a manifest.

    Raises:
        ArtifactError: a file of it is missing, or it is an artifact of optimum-core without its manifest.
        SourceError: it is a damaged ONNX file, or a git-lfs pointer to a file that was not fetched.
    """
    _refuse_remains(path, name)
    if path.is_dir() and ((path / MANIFEST).is_file() or files.has_weights(path)):
        return None
    for backend, support in sorted(manager().supports(detect()).items()):
        for foreign in support.foreign:
            comparable = foreign.format != _ONNX and path.is_dir() and _has_onnx(path)
            if not comparable and (found := foreign.find(path)):
                missing = next((part for part in found if not part.is_file()), None)
                if missing is not None:
                    why = f"{missing.name} is not beside {found[0].name}"
                    raise ArtifactError(f"model {name!r}", why, "copy all files of the model")
                if pointer := next((part for part in found if is_pointer(part)), None):
                    raise files.refuse_file(pointer, f"model {name!r}")
                directory = _described(path, found[0])
                return ConvertedSource(name=name, directory=directory, backend=backend, foreign=foreign, files=found)
    return None


def _refuse_remains(path: Path, name: str) -> None:
    """Raise `ArtifactError` for an artifact of optimum-core whose manifest is gone: nothing tells what it holds."""
    if (path / CHECK_FILE).is_file() and not (path / MANIFEST).is_file():
        why = f"it is an artifact of optimum-core ({CHECK_FILE} is there) whose manifest {MANIFEST} is missing"
        raise ArtifactError(f"model {name!r}", why, "copy the whole directory again, or save the artifact anew")


def _has_onnx(directory: Path) -> bool:
    return any(directory.glob("*.onnx")) or any(directory.glob("onnx/*.onnx"))


def _described(given: Path, file: Path) -> Path:
    """Return the directory whose `config.json` describes a file: the one that was given, the file's own, or the one
    around that."""
    own = given if given.is_dir() else file.parent
    return next((place for place in (own, *file.parents[:2]) if (place / "config.json").is_file()), own)
