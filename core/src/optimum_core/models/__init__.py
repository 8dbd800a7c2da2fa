"""Models in torch and transformers: the only room that imports either library.

It turns the user's model into arrays, specs and exported files that can be verified and measured. From the ground up:

    pretrained    the adapter to huggingface-hub and transformers' Auto classes; `silence` quiets libraries
    tasks         tasks of models; `fingerprint` identifies their weights, configuration and code (`code_fingerprint`)
    weights       the tensors that a module saves
    eager         calls of the eager model
    inputs        inputs by rule
    signatures    inputs, outputs and axes by trial
    data          users' data, as batches
    sources       what was passed: checkpoints, modules, sentence encoders, adapters, other packages' files
    decoders      decoders and encoder-decoders
    exporting     tracing, and two ways to write ONNX
    multimodal    pictures and sound with text
    generators    the description of any model that generates
    backends      the built-in backends `torch` and `onnx`
    references    eager's own texts
"""

from __future__ import annotations

import logging

# Where torchao is installed, transformers imports it with every model class, and it logs two kinds of remarks that no
# user can act on: extensions for GPUs that the CPU's torch cannot load, and a deprecated call of its own to torch.
_REMARKS = {
    "torchao": ("Failed to load ", "Skipping import of cpp extensions"),
    "torch.utils._pytree": ("register_constant()",),
}


def _is_of_use(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(remark in message for remark in _REMARKS[record.name])


for _name in _REMARKS:
    logging.getLogger(_name).addFilter(_is_of_use)
