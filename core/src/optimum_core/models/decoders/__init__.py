"""Decoders, alone and behind an encoder: described by trial, exported as pure functions, driven by transformers.

`description` finds the inputs, cache and positions of a decoder, `encoder_decoder_description` those of both halves;
`parts` says what is exported: `module`, `encoder_decoder_module` or a `language_module` of embeddings. Layers of
a fixed state are `recurrent`, and their `kernels` are written so that they export. The reference is eager's own cache,
`eager_state`. A `captioner` (BLIP, GIT) is called as an encoder-decoder. `generate`,
`encoder_decoder_generate` and `captioner_generate` let transformers' GenerationMixin drive any backend.
"""
