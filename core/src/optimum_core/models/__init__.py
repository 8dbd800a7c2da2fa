"""Models in torch and transformers: the only room that imports either library.

It turns the user's model into arrays, specs and exported files that can be verified and measured:

    source              the given model: an instance, a module, a directory, a hub id; weights only when needed
    loading             reading of models, configurations and processors; calls to huggingface-hub and the Auto classes
    model_forms         other forms of a model: unwrapped where that changes nothing, or refused
    model_files         files and directories without a readable model, and the alternative to pass
    onnx_file           an ONNX file as a model
    checkpoint          the precision in which a checkpoint holds its weights
    fingerprint         sha256 of everything that decides a model's outputs
    tasks               the task and the class, from `config.architectures`
    layouts             the inputs of a forward, and the meaning of each axis
    derivation          the layout of a given model, tried on the eager model
    defaults            the meaning of an omitted input
    axes                the axes that vary, and their limits
    switches            lengths at which a model may compute differently
    samples             arrays for a layout, at any lengths, padded as a case asks
    sample_inputs       samples that the user passed
    variations          variations of the user's call: other lengths, rows and values
    processor_inputs    inputs from real data through the model's own processor
    data_rows, batches  data for calibration and evaluation: rows, and batches of them on disk
    outputs             conversion of a model's output to named arrays, and back to its class
    signature           all of that as a `ModelSignature`: specs whose varying axes the eager model accepts
    copies              copies of a model for trial calls, so that a call never changes the model
    eager_calls         a model with tensors in and out by position
    eager_questions     lengths and values that the eager model accepts
    eager_session       the eager model as a session, and as files
    evaluator           evaluation of ONNX operator by operator, for graphs that no runtime here runs
    sensitivity         ranking of layers by the error of rounding them
    tracing             the inputs of an exporter: module, samples, varying axes
    value_branches      Python branches on values, which a trace decides
    silence             suppression of libraries' prints
    engines             two exporters to ONNX
    eager, to_onnx      the two built-in backends, registered through the same hooks as plugins
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
