"""Files of an artifact put in place, and its specs compared with what a file declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from optimum_core.types import TensorSpec

#: What a model file or a runtime declares of one input or output: its name, its element type as numpy calls it, and its
#: lengths. A name or None: the length may vary. None in the place of the shape: it is not known.
Port = tuple[str, str, tuple[int | str | None, ...] | None]
Specs = Sequence[TensorSpec]


def move_into(folder: Path, output: Path, names: Sequence[str]) -> None:
    """Move what was written aside in `folder` into `output`, the file to open first, `names[0]`, last: where that is,
    all are.

    Args:
        folder: on the same file system, such as a temporary directory made in `output`.
        names: of files or directories.
    """
    for name in reversed(names):
        (folder / name).replace(output / name)


def interface_problems(
    inputs: Iterable[Port], outputs: Iterable[Port], said: tuple[Specs, Specs], what: str = "model"
) -> list[str]:
    """Return in words how what a file takes and gives differs from the inputs and outputs `said` of it; best none.

    The file may be more general (an axis that was not proved to vary is fixed in the specs), and may have further
    outputs; never the other way round. Inputs must vary where the specs have a name. A length that is declared for an
    output is a remark of the exporter: only one that contradicts another is a problem.

    Args:
        what: what the file is, in a word.

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
