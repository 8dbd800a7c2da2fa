"""Run onnxruntime's own Python optimizer, in a process of its own: `python -m optimum_ort.worker`.

That package puts its folder on `sys.path` and imports modules with names such as `optimizer`, `metrics` and `float16`,
which would then hide modules of those names from the user's program.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from optimum_core.errors import ExportError, ended
from optimum_ort.devices import BACKEND
from optimum_ort.storage import write_model


def run_worker(model: Path, folder: Path, *, fuse: bool, half: bool, external: bool) -> None:
    """Write `model`, fused and/or in half precision, into `folder`.

    Raises:
        RuntimeError: the process failed; the message is the end of its output.
        ExportError, ResourceError: a signal ended it.
    """
    flags = [f"--{name}" for name, on in (("fuse", fuse), ("half", half), ("external", external)) if on]
    # -P: a file of the working directory must not stand in for one of the optimizer's modules.
    command = [sys.executable, "-P", "-m", "optimum_ort.worker", str(model), str(folder), *flags]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode < 0:
        who = f"backend '{BACKEND}', {model}"
        raise ended(done.returncode, ExportError, who, "optimized it", "", "use another level")
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError(lines[-1] if lines else f"the optimizer ended with code {done.returncode}")


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    for flag in ("--fuse", "--half", "--external"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    model = _rewrite(given.model, fuse=given.fuse, half=given.half)
    write_model(model, given.folder, external=given.external)


def _rewrite(path: Path, *, fuse: bool, half: bool) -> Any:
    import onnx
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.onnx_model import OnnxModel
    from onnxruntime.transformers.optimizer import optimize_by_fusion

    model = onnx.load(path)
    inputs, outputs = list(model.graph.input), list(model.graph.output)
    kept = [_copy(value) for value in (*inputs, *outputs)]
    edited = OnnxModel(model)
    if fuse:
        options = FusionOptions("bert")
        # The default reduces a mask to a length, which is wrong for anything but padding on the right.
        options.use_raw_attention_mask()
        edited = optimize_by_fusion(model, "bert", optimization_options=options)
    if half:
        edited.convert_float_to_float16(keep_io_types=True)
    _restore_interface(edited.model.graph, kept[: len(inputs)], kept[len(inputs) :])
    return edited.model


def _copy(value: Any) -> Any:
    copied = type(value)()
    copied.CopyFrom(value)
    return copied


def _restore_interface(graph: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Restore the declared inputs and outputs: the passes may have lost the names of axes."""
    for field, kept in (("input", inputs), ("output", outputs)):
        found, wanted = [v.name for v in getattr(graph, field)], [v.name for v in kept]
        if sorted(found) != sorted(wanted):
            raise RuntimeError(f"{field}s changed from {wanted} to {found}")
        del getattr(graph, field)[:]
        getattr(graph, field).extend(kept)


if __name__ == "__main__":
    main()
