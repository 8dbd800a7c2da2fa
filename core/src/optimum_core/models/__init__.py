"""Models in torch and transformers: the only room that imports either library.

It turns the user's model into arrays, specs and exported files that can be verified and measured. The first line of
each module says what it does; by subject:

    what was given      source, loading, model_forms, model_files, checkpoint, fingerprint, tasks, copies
    other packages'     adapters, adapter_files, gguf_file, onnx_file, onnx_directory
    sentence encoders   sentence_source, sentence_directory, sentence_encoder, sentence_heads, sentence_object,
                        sentence_wrapper, sentence_check
    inputs, by rule     layouts, samples, sample_inputs, variations, processor_inputs, large_values, texts
    and by trial        signature, derivation, axes, defaults, switches, size_branches, eager_questions, time_limit
    data                data_rows, batches
    eager calls         eager_calls, outputs, chance, threads, silence, sensitivity
    decoders            decoder, decoder_module, encoder_decoder, encoder_decoder_module, eager_state, whole_texts
    pictures and sound  pictures, picture_texts, language_module, parts, merging, merge_session, towers, tower_calls
    generate            generating, generating_encoder_decoder
    exporting           tracing, value_branches, promotion, engines
    built-in backends   eager, eager_session, to_onnx, evaluator
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
