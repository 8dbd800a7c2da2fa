"""Driving a model that remembers: what generation needs and torch is not needed for.

decoder_session    one decoder session, and one generation: what the mask and the positions of a call are
encoder_decoder_session  the parts of an encoder-decoder, and decoders behind its encoder
model_session      the session of a whole generative model, made of its parts
settings           the settings of a call of `generate`, from the call and from `generation_config.json`
unsupported        the settings of transformers that need torch, and the values that leave them off
sampling           the choice of the next token from its scores
scores             log probabilities of tokens, and the bytes of each
loop               the loop of greedy decoding and sampling
text               tokens from texts and chats, and texts from tokens as they come
continuous         texts written together by a backend's continuous batching
state_batch        continuous batching by states that a backend joins
generator          the artifact of a whole generative model, made of its decoder alone
generator_workload the shapes that generators are timed at, and the timed call
"""
