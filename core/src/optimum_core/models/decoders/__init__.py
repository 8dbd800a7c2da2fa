"""Decoders, alone and behind an encoder: described by trial, exported as pure functions, driven by transformers.

`description` finds the inputs, cache and positions of a decoder, `encoder_decoder_description` those of both halves;
`parts` says what is exported: `module`, `encoder_decoder_module` or a `language_module` of embeddings. The reference is
eager's own cache, `eager_state`. States of a fixed size are `recurrent`; `stepping` finds whether eager goes on from
them by several tokens, and the `kernels` of recurrences are replaced for exporters. A `captioner` (BLIP, GIT) is called
as an encoder-decoder. `generate`, `encoder_decoder_generate` and `captioner_generate` let transformers' GenerationMixin
drive any backend; `word_times` are read from Whisper's own cross attention.
"""
