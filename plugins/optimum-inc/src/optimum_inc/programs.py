"""The one module that speaks to `torch.export`: tracing, files, and what a graph's inputs and axes are.

A file holds beside the graph what goes in and out by name, since a graph knows positions alone.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from optimum_core.backend import Port, foreign_errors, interface_problems, present
from optimum_core.errors import SessionError
from optimum_core.types import TensorSpec

MODEL = "model.pt2"
_SPECS = "optimum.json"
#: Room for what a file holds beside weights.
_GRAPH = 4 << 20
_aten = torch.ops.aten
_ARRANGING = (_aten.to, _aten._to_copy, _aten.view, _aten.reshape, _aten.slice, _aten.select, _aten.expand, _aten.clone)

Specs = tuple[TensorSpec, ...]


def axis_problems(program: Any, inputs: Specs) -> list[str]:
    """Axes that are to vary and came out fixed, in words."""
    found = []
    for spec, value in zip(inputs, _input_values(program), strict=True):
        for index, axis in spec.dynamic_axes.items():
            length = value.shape[index]
            if not _varies(program, length):
                found.append(f"axis {axis!r} of {spec.name!r} came out fixed at {length}")
    return found


def _varies(program: Any, length: Any) -> bool:
    if not isinstance(length, torch.SymInt) or length.node.expr.is_number:
        return False
    known = program.range_constraints.get(length.node.expr)
    return known is None or known.lower != known.upper


def axis_limits(program: Any, inputs: Specs) -> dict[str, int]:
    """The greatest length of each named axis that has one (positions that a model knows, say)."""
    limits: dict[str, int] = {}
    for spec, value in zip(inputs, _input_values(program), strict=True):
        for index, axis in spec.dynamic_axes.items():
            length = value.shape[index]
            known = program.range_constraints.get(getattr(getattr(length, "node", None), "expr", None))
            if known is not None and known.upper.is_Integer:
                limits[axis] = min(int(known.upper), limits.get(axis, int(known.upper)))
    return limits


def table_sizes(program: Any, inputs: Specs) -> dict[str, int]:
    """For each input that looks up rows of a table, how many rows the smallest such table has."""
    names = dict(zip(program.graph_signature.user_inputs, (spec.name for spec in inputs), strict=True))
    sizes: dict[str, int] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.embedding.default:
            name = names.get(_origin(node.args[1]).name)
            if name is not None:
                rows = int(node.args[0].meta["val"].shape[0])
                sizes[name] = min(rows, sizes.get(name, rows))
    return sizes


def _origin(node: Any) -> Any:
    """Where the values of a node come from, through operators that only arrange them."""
    while node.op == "call_function" and getattr(node.target, "overloadpacket", None) in _ARRANGING:
        node = node.args[0]
    return node


def _input_values(program: Any) -> list[Any]:
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def specs_text(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> str:
    """What goes in and out, to be kept beside a graph."""
    plain = {"inputs": [asdict(spec) for spec in inputs], "outputs": [asdict(spec) for spec in outputs]}
    return json.dumps(plain, sort_keys=True)


def specs_problem(text: str, inputs: Specs, outputs: Specs) -> str | None:
    """How what was kept differs from what an artifact says. Axes that are fixed there may vary in the file."""
    try:
        kept = json.loads(text)
    except ValueError:
        return "it does not say what goes in and out"
    for kind, specs in (("input", inputs), ("output", outputs)):
        names = [item["name"] for item in kept[f"{kind}s"]]
        if names != [spec.name for spec in specs]:
            return f"its {kind}s are {', '.join(names)}, not {', '.join(spec.name for spec in specs)}"
    problems = interface_problems(_ports(kept["inputs"]), _ports(kept["outputs"]), (inputs, outputs), "file")
    return problems[0] if problems else None


def _ports(kept: Iterable[dict[str, Any]]) -> list[Port]:
    return [(item["name"], item["dtype"], tuple(item["shape"])) for item in kept]


def save(program: Any, folder: Path, inputs: Specs, outputs: Specs) -> tuple[str, ...]:
    """Write the program; the names of the files.

    Raises:
        OSError: there is no room. It is looked for before: a writer of torch's that fails half-way ends the process
            when it is collected (torch 2.13).
    """
    size = sum(item.numel() * item.element_size() for item in program.state_dict.values())
    if shutil.disk_usage(folder).free < size + _GRAPH:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    torch.export.save(program, folder / MODEL, extra_files={_SPECS: specs_text(inputs, outputs)})
    return (MODEL,)


def load(path: Path, inputs: Specs, outputs: Specs, who: str) -> Any:
    """Read a program that `save` wrote.

    Raises:
        SessionError: the file is missing or damaged, or does not belong to these inputs and outputs.
    """
    require_whole(path, who)
    extra = {_SPECS: ""}
    register_operators()
    doing = f"torch {torch.__version__} cannot read it"
    with foreign_errors(who, SessionError, "export the model again", doing=doing):
        program = torch.export.load(path, extra_files=extra)
    problem = specs_problem(extra[_SPECS], inputs, outputs)
    if problem:
        raise SessionError(who, problem, "export the model again: file and manifest do not belong together")
    return program


def require_whole(path: Path, who: str) -> None:
    """Check every byte of a package against the checksums in it, before torch reads it.

    Raises:
        SessionError: the file is missing, cut short or altered.
    """
    if not path.is_file():
        raise SessionError(who, "the file does not exist", "export the model again, or correct the path")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        why = f"it is not whole: {type(error).__name__}: {error}"
        raise SessionError(who, why, "export or quantize the model again") from error
    if damaged:
        why = f"it is not whole: {damaged} was altered"
        raise SessionError(who, why, "export or quantize the model again")


def register_operators() -> None:
    """Make the operators known that graphs with ranges of their own have; torchao brings them."""
    if present("torchao"):
        import torchao.quantization.pt2e  # noqa: F401
