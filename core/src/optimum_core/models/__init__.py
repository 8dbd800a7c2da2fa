"""The only package that imports torch and transformers.

It takes a user's model and makes it ready for export, verification and measurement:

    source     the given model: an instance, a module, a directory, a hub id; weights only when needed
    tasks      the task and the class, from `config.architectures`
    layouts    the inputs that the forward takes, and the meaning of each axis
    samples    arrays for those inputs, at any lengths, padded as a case says
    outputs    conversion of a model's output to named arrays, and back to its class
    signature  all of that, tried on the eager model: specs whose varying axes it accepts
    engines    two ways to write ONNX
    eager, to_onnx   the two built-in backends, registered through the same hooks as plugins
"""

from __future__ import annotations

import logging

# If torchao is installed, transformers imports it with every model class, and it logs two kinds of remarks that no user
# can act on: extensions for GPUs that the CPU's torch cannot load, and a deprecated call of its own to torch.
_REMARKS = {
    "torchao": ("Failed to load ", "Skipping import of cpp extensions"),
    "torch.utils._pytree": ("register_constant()",),
}


def _is_of_use(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(remark in message for remark in _REMARKS[record.name])


for _name in _REMARKS:
    logging.getLogger(_name).addFilter(_is_of_use)
