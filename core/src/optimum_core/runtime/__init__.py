"""The accelerated model: the object that `accelerate` returns and `load` opens.

The first line of each module says what it does; by subject:

    the model          accelerated, summary, transformers_face, not_torch, pickling
    a call             call_inputs, call_plan, call_rows, neutral_arguments, bounds, gradients, call_outputs,
                       output_lengths, repeated_call
    generation         generation_face, encoder_decoder_calls, merged_calls, without_cache
    many texts         items, mapping, streaming, embedding, embedding_face, pooled, vectors, ranking
    saved artifacts    loading, opening, files_beside, hub, eager_saving, absent_device, converted, foreign_layouts,
                       card, accepting
"""
