"""Writing of an artifact of ours as optimum-intel reads it: the reverse of `adoption`."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from optimum_core.types import Artifact
from optimum_core.types.state import DECODER
from optimum_openvino.runtime import core
from optimum_openvino.storage import MODEL, WEIGHTS, save

#: The input that selects the positions to give logits of, which other packages do not know.
KEPT = "logits_to_keep"


def release(artifact: Artifact, output: Path) -> None:
    """Write `openvino_model.xml` with its weights; a decoder then gives the logits of all new positions."""
    decoder = artifact.parts.get(DECODER)
    if decoder is None:
        for name, file in zip((MODEL, WEIGHTS), artifact.files, strict=True):
            copyfile(artifact.path / file, output / name)
        return
    model = core().read_model(decoder.main_file)
    keep_all_logits(model)
    save(model, output)


def keep_all_logits(model: Any) -> None:
    """Replace the input that selects positions by all of them."""
    from openvino import opset13 as ops

    (kept,) = (port.get_node() for port in model.inputs if KEPT in port.get_names())
    (ids,) = (port for port in model.inputs if "input_ids" in port.get_names())
    length = ops.gather(ops.shape_of(ids, output_type="i64"), ops.constant(np.int64(1)), ops.constant(np.int64(0)))
    places = ops.range(ops.constant(np.int64(0)), length, ops.constant(np.int64(1)), "i64")
    for reader in kept.output(0).get_target_inputs():
        reader.replace_source_output(places.output(0))
    model.remove_parameter(kept)
    model.validate_nodes_and_infer_types()
