"""Adapter to AOTInductor: compilation of a graph to native code, and reading of compiled packages."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from optimum_core.backend import foreign_errors, processor_problem, processor_stamp
from optimum_core.errors import SessionError
from optimum_core.types import Hardware
from optimum_inc.programs import require_whole

_INTEGER_CALL = re.compile(r"aoti_torch_cpu_(_?q(?:linear|conv)\w*|_weight_int[48]pack_mm\w*)\(")
_KEY = "optimum"
#: Key of the package metadata: the torch version that the code needs. Beside it is the processor's stamp.
_TORCH = "torch"


def compile_package(program: Any, path: Path, told: dict[str, Any], hardware: Hardware) -> None:
    """Compile a `torch.export.ExportedProgram` and write it as one file.

    Weights are frozen into it in the layout that the kernels read. Loops choose their number of threads when they run.
    Of TorchInductor's own cache, only what serves every model is used: compiled headers, and whether vector
    instructions work. `told` is stored beside the code; see `facts_of`.
    """
    from torch._inductor import aoti_compile_and_package, config
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._inductor.utils import fresh_cache

    told = {**told, _TORCH: torch.__version__, **processor_stamp(hardware)}
    settings = {
        "freezing": True,
        "cpp.dynamic_threads": True,
        # Use torch's own kernels for integer weights: Inductor's templates for them fail on float activations.
        "max_autotune_gemm_backends": "ATEN",
        # Leave out what profilers of native code read: a tenth of the compilation, and a third of the code.
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
        "aot_inductor.metadata": {_KEY: json.dumps(told)},
    }
    pick_vec_isa()  # compiles a program to find out: seconds in each process, if asked within a new cache
    with torch.no_grad(), fresh_cache(dir=str(path.parent)), config.patch(settings):
        aoti_compile_and_package(program, package_path=str(path))


def integer_calls(path: Path) -> dict[str, int]:
    """Return the number of calls of each kernel for integer weights in the code of a package."""
    counts: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("wrapper.cpp"):
                for call in _INTEGER_CALL.findall(archive.read(name).decode()):
                    counts[call] = counts.get(call, 0) + 1
    return counts


def facts_of(path: Path, who: str) -> dict[str, Any]:
    """Return the facts that `compile_package` stored beside the code.

    Raises:
        SessionError: the file is missing, damaged, or of another origin.
    """
    require_whole(path, who)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("wrapper_metadata.json"):
                facts = json.loads(archive.read(name)).get(_KEY)
                if facts:
                    found: dict[str, Any] = json.loads(facts)
                    return found
    raise SessionError(who, "it was not written by this backend", "quantize the model again")


def place_problem(facts: dict[str, Any], hardware: Hardware) -> str | None:
    """Return why a package cannot run here: its code was made for another processor or another torch."""
    made, here = str(facts[_TORCH]).partition("+")[0], torch.__version__.partition("+")[0]
    if made.rsplit(".", 1)[0] != here.rsplit(".", 1)[0]:
        return f"it was compiled with torch {made}, and torch {here} is installed"
    return processor_problem(facts, hardware)


def open_package(path: Path, who: str) -> Any:
    """Return the runner of a package: a list of tensors in, a list of tensors out.

    Raises:
        SessionError: torch cannot open it.
    """
    from torch._inductor.package.package import load_package

    doing = f"torch {torch.__version__} cannot open it"
    with foreign_errors(who, SessionError, "quantize the model again", doing=doing):
        return load_package(os.fspath(path)).loader
