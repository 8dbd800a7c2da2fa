"""Adapter to `torch.export`: tracing, files, and the inputs and axes of a graph.

A file stores the names of inputs and outputs beside the graph, because a graph knows positions only.
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
#: Space in bytes for the contents of a file other than weights.
_GRAPH = 4 << 20
_aten = torch.ops.aten
_ARRANGING = (_aten.to, _aten._to_copy, _aten.view, _aten.reshape, _aten.slice, _aten.select, _aten.expand, _aten.clone)

Specs = tuple[TensorSpec, ...]


def axis_problems(program: Any, inputs: Specs) -> list[str]:
    """Return the axes that have to vary and were specialized to one length, in words."""
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
    """Return the greatest length of each named axis that has one (for example the positions that a model has)."""
    limits: dict[str, int] = {}
    for spec, value in zip(inputs, _input_values(program), strict=True):
        for index, axis in spec.dynamic_axes.items():
            length = value.shape[index]
            known = program.range_constraints.get(getattr(getattr(length, "node", None), "expr", None))
            if known is not None and known.upper.is_Integer:
                limits[axis] = min(int(known.upper), limits.get(axis, int(known.upper)))
    return limits


def table_sizes(program: Any, inputs: Specs) -> dict[str, int]:
    """Return, for each input that looks up rows of a table, the number of rows of the smallest such table."""
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
    """Return the node that the values of a node come from, through operators that only rearrange them."""
    while node.op == "call_function" and getattr(node.target, "overloadpacket", None) in _ARRANGING:
        node = node.args[0]
    return node


def _input_values(program: Any) -> list[Any]:
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def specs_text(inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> str:
    """Return the names and specs of inputs and outputs as text, to be stored beside a graph."""
    plain = {"inputs": [asdict(spec) for spec in inputs], "outputs": [asdict(spec) for spec in outputs]}
    return json.dumps(plain, sort_keys=True)


def specs_problem(text: str, inputs: Specs, outputs: Specs) -> str | None:
    """Return the difference between the stored specs and an artifact's, which may fix axes that vary in the file."""
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
    """Write the program and return the names of the files.

    Raises:
        OSError: the disk is full. Free space is checked first: a writer of torch's that fails half-way ends the process
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
    """Register the operators of graphs with their own ranges; torchao brings them."""
    if present("torchao"):
        import torchao.quantization.pt2e  # noqa: F401
