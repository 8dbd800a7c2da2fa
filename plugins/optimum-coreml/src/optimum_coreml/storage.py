"""Files of a package, and the check that its weights are those written with it.

A package is a folder: a list of its items, the program, and a file of weights. Core ML reads any bytes at the right
offsets as weights; so the program's own metadata holds the sha256 of that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimum_core.backend import checksum_problem, file_sha256
from optimum_core.errors import SessionError
from optimum_core.types import Artifact

PACKAGE = "model.mlpackage"
_LIST = "Manifest.json"
_DATA = "Data/com.apple.CoreML"
_PROGRAM = f"{_DATA}/model.mlmodel"
_WEIGHTS = f"{_DATA}/weights/weight.bin"

_DIGEST = "optimum.weights_sha256"
#: Metadata key: dotted names of the module's weights, with their names in the program.
LAYERS = "optimum.layers"


def save(model: Any, folder: Path, notes: Mapping[str, str]) -> tuple[str, ...]:
    """Write an `MLModel` as a package under `folder`, with `notes` in the program's metadata; return the file names,
    the one to open first.
    """
    from coremltools.proto import Model_pb2

    package = folder / PACKAGE
    model.save(str(package))
    spec = Model_pb2.Model.FromString((package / _PROGRAM).read_bytes())
    written = spec.description.metadata.userDefined
    for name, text in notes.items():
        written[name] = text
    if (package / _WEIGHTS).is_file():
        written[_DIGEST] = file_sha256(package / _WEIGHTS)
    (package / _PROGRAM).write_bytes(spec.SerializeToString(deterministic=True))
    found = sorted(path.relative_to(folder).as_posix() for path in package.rglob("*") if path.is_file())
    first = f"{PACKAGE}/{_LIST}"
    return (first, *(name for name in found if name != first))


def package_of(artifact: Artifact) -> Path:
    """Return the folder that Core ML opens."""
    return artifact.main_file.parent


def weights_file(package: Path) -> Path:
    """Return the path of the weights file; a program of small constants has none."""
    return package / _WEIGHTS


def read_program(package: Path, who: str) -> Any:
    """Return the program of a package as coremltools' message `Model`, after every check that files allow.

    Raises:
        SessionError: a file is missing, altered or cut short, or it holds no ML program.
    """
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    remedy = "export the model again: a file of the package was lost, altered or cut short"
    try:
        _check_list(package)
        spec = Model_pb2.Model.FromString((package / _PROGRAM).read_bytes())
        problem = _weights_problem(spec, package / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise SessionError(who, f"the package cannot be read: {error}", remedy) from error
    if spec.WhichOneof("Type") != "mlProgram":
        kind = spec.WhichOneof("Type") or "nothing"
        raise SessionError(who, f"it holds {kind}, not an ML program", "export the model with this backend")
    if problem:
        raise SessionError(who, problem, remedy)
    return spec


def notes_of(spec: Any) -> dict[str, str]:
    """Return the program's user-defined metadata."""
    return dict(spec.description.metadata.userDefined)


def layers_of(spec: Any) -> dict[str, str]:
    """Return the dotted names of the module's weights with their names in the program; empty where none are noted."""
    found: dict[str, str] = json.loads(notes_of(spec).get(LAYERS, "{}"))
    return found


def _check_list(package: Path) -> None:
    listed = json.loads((package / _LIST).read_text(encoding="utf-8"))
    names = {entry["path"] for entry in listed["itemInfoEntries"].values()}
    root = listed["itemInfoEntries"][listed["rootModelIdentifier"]]["path"]
    if f"Data/{root}" != _PROGRAM:
        raise ValueError(f"{_LIST} names {root!r} as its program, not {_PROGRAM!r}")
    missing = [name for name in names if not (package / "Data" / name).exists()]
    if missing:
        raise ValueError(f"{missing[0]} is missing")


def _weights_problem(spec: Any, weights: Path) -> str | None:
    expected = spec.description.metadata.userDefined.get(_DIGEST)
    return checksum_problem(weights, expected) if expected else None
