"""Moving of an artifact's files into place, and comparison of its specs with the interface that a file declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from optimum_core.types import TensorSpec

#: One input or output as a model file or a runtime declares it: its name, numpy's name of its element type, and its
#: shape. An axis that is a name or None may vary. None in place of the shape: it is not known.
Port = tuple[str, str, tuple[int | str | None, ...] | None]
Specs = Sequence[TensorSpec]


def move_into(folder: Path, output: Path, names: Sequence[str]) -> None:
    """Move files from the temporary `folder` into `output`, the main file `names[0]` last, so that it is present only
    if all are.

    Args:
        folder: a directory on the same file system, such as a temporary one made in `output`.
        names: names of files or directories.
    """
    for name in reversed(names):
        (folder / name).replace(output / name)


def interface_problems(
    inputs: Iterable[Port], outputs: Iterable[Port], said: tuple[Specs, Specs], what: str = "model"
) -> list[str]:
    """Return descriptions of the differences between a file's inputs and outputs and the specs in `said`.

    The file may be more general (an axis that was not proved to vary is fixed in the specs), and may have further
    outputs; never the other way round. Inputs must vary where the specs have a name. A length declared for an output is
    only informative: it is a problem only if it contradicts a length in the specs.

    Args:
        what: a word for the kind of file.

    >>> ids = TensorSpec(name="input_ids", dtype="int64", shape=("batch", 8))
    >>> interface_problems([("input_ids", "int64", (None, 8))], [], ([ids], []))
    []
    >>> interface_problems([("input_ids", "int64", (1, 8)), ("mask", "int64", None)], [], ([ids], []))
    ["input 'input_ids' is [1, 8] in the model, not ['batch', 8]", "the model also takes input 'mask'"]
    """
    found = []
    for kind, ports, specs in (("input", inputs, said[0]), ("output", outputs, said[1])):
        known = {name: (dtype, shape) for name, dtype, shape in ports}
        for spec in specs:
            if spec.name not in known:
                found.append(f"the {what} has no {kind} '{spec.name}'")
                continue
            dtype, shape = known.pop(spec.name)
            if dtype != spec.dtype:
                found.append(f"{kind} '{spec.name}' is {dtype} in the {what}, not {spec.dtype}")
            elif shape is not None and not _fits(spec.shape, shape, varies=kind == "input"):
                declared = ["?" if length is None else length for length in shape]
                found.append(f"{kind} '{spec.name}' is {declared} in the {what}, not {list(spec.shape)}")
        if kind == "input":
            found += [f"the {what} also takes input '{name}'" for name in known]
    return found


def _fits(said: tuple[int | str, ...], declared: tuple[int | str | None, ...], *, varies: bool) -> bool:
    if len(said) != len(declared):
        return False
    pairs = zip(said, declared, strict=True)
    return all(
        not isinstance(there, int) or here == there or (isinstance(here, str) and not varies) for here, there in pairs
    )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, to be kept in another file that goes with it."""
    from optimum_core.artifact.integrity import describe

    return describe(path).sha256


def checksum_problem(path: Path, expected: str) -> str | None:
    """Return why a file is not the one with this sha256, for an error; None: it is."""
    if not path.is_file():
        return f"{path.name} is missing"
    found = file_sha256(path)
    if found == expected:
        return None
    return f"{path.name} is not the file written with it: sha256 {found[:12]}…, expected {expected[:12]}…"
