"""File names of an IR, and the check that its weights are those written with it.

OpenVINO reads any bytes of the right number as weights. So the graph's file holds the sha256 of the file of weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_core.backend import checksum_problem, file_sha256

MODEL = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"

_KEY = ["optimum", "weights_sha256"]
_UNKNOWN = "0" * 64


def save(model: Any, folder: Path, *, half: bool = False) -> tuple[str, ...]:
    """Write an `openvino.Model` with its weights unchanged, or in fp16; return the file names, the graph first."""
    import openvino

    path = folder / MODEL
    model.set_rt_info(_UNKNOWN, _KEY)
    openvino.save_model(model, path, compress_to_fp16=half)
    graph = path.read_bytes()
    path.write_bytes(graph.replace(_UNKNOWN.encode(), file_sha256(folder / WEIGHTS).encode()))
    return (MODEL, WEIGHTS)


def weights_problem(model: Any, path: Path) -> str | None:
    """Return the problem of the weights beside the IR at `path`, read as `model`; None also without a checksum."""
    if not model.has_rt_info(_KEY):
        return None
    return checksum_problem(path.with_suffix(".bin"), model.get_rt_info(_KEY).astype(str))
