"""Writing of an artifact of ours as optimum-intel reads it: the reverse of `adoption`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.types import Artifact
from optimum_core.types.state import DECODER
from optimum_openvino.runtime import core
from optimum_openvino.storage import GROUP, MODEL

#: The input that selects the positions to give logits of, which other packages do not know.
KEPT = "logits_to_keep"


def release(artifact: Artifact, output: Path) -> None:
    """Write `openvino_model.xml` with its weights; a decoder then gives the logits of all new positions."""
    import openvino

    decoder = artifact.parts.get(DECODER)
    model = core().read_model((decoder or artifact).main_file)
    if decoder is not None:
        keep_all_logits(model)
    if GROUP in model.rt_info:  # optimum-intel takes a group of this name for its own, and reads versions in it
        del model.rt_info[GROUP]
    openvino.save_model(model, output / MODEL, compress_to_fp16=False)


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
