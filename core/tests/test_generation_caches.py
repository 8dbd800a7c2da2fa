"""Caches that a caller hands back: whose they are, and how long they stay."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.model_session import EncoderDecoderSession, open_session
from optimum_core.hardware import detect
from optimum_core.models.decoders.encoder_decoder_generate import host_for
from optimum_core.models.decoders.generate import Host
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.search.builder import eager_artifact
from optimum_core.testing import decoders, encoder_decoders
from optimum_core.types import SessionRequest

IDS = torch.tensor([[5, 8, 13, 21, 34]])


def text_host(kind: str = "llama") -> Host:
    module = decoders.decoder(kind)
    decoder = Decoder(decoders.eager_decoder(kind), manager().binder)
    return Host("fast", decoder, module.config, lambda: module.generation_config)


def t5() -> tuple[Any, Any]:
    module = encoder_decoders.encoder_decoder("t5")
    request = SessionRequest(
        backend="torch", artifact=eager_artifact(encoder_decoders.described("t5")), device="cpu", hardware=detect(),
        source=MemorySource(module),
    )  # fmt: skip
    session = open_session(manager(), request)
    assert isinstance(session, EncoderDecoderSession)
    known = ("T5ForConditionalGeneration", "fast", session.parts, module.config, lambda: module.generation_config)
    return module, host_for(*known, main_input="input_ids")


def test_the_cache_of_another_model_is_refused() -> None:
    """Its state would run the other model."""
    fast, other = text_host(), text_host("qwen2")
    cache = other(IDS).past_key_values
    calls: tuple[Any, ...] = (fast, partial(fast.generate, max_new_tokens=2))
    for call in calls:
        with pytest.raises(InputError, match="cache of another model"):
            call(IDS, past_key_values=cache)
    assert other(IDS[:, :1], past_key_values=cache).logits.shape[1] == 1  # it is as it was


def test_layers_of_a_cache_have_no_tensors_to_read() -> None:
    cache = text_host()(IDS).past_key_values
    assert len(cache.layers) == len(cache) == 2 and cache.batch_size == 1
    for name in ("keys", "values"):
        with pytest.raises(UnavailableError, match="lie in the backend"):
            getattr(cache.layers[0], name)
    assert "5 positions of 2 layers" in repr(cache)


def test_a_cache_that_is_handed_in_stays_after_a_call_without_one() -> None:
    module, fast = decoders.decoder("llama"), text_host()
    answers = []
    for model in (module, fast):
        cache = model(IDS).past_key_values
        middle = model(IDS[:, :2], past_key_values=cache, use_cache=False)
        assert middle.past_key_values is cache and model(IDS, use_cache=False).past_key_values is None
        last = model(IDS[:, :1], past_key_values=cache)
        answers.append((middle.logits.detach(), last.logits.detach(), cache.get_seq_length()))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-3, atol=1e-3)


def test_behind_an_encoder_too() -> None:
    module, fast = t5()
    answers = []
    for model in (module, fast):
        first = model(input_ids=IDS, decoder_input_ids=IDS[:, :3])
        cache, encoded = first.past_key_values, model.get_encoder()(input_ids=IDS)
        model(decoder_input_ids=IDS[:, 3:4], encoder_outputs=encoded, past_key_values=cache, use_cache=False)
        last = model(decoder_input_ids=IDS[:, 4:], encoder_outputs=encoded, past_key_values=cache)
        answers.append((last.logits.detach(), cache.get_seq_length()))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-3, atol=1e-3)


def test_rows_that_a_cache_does_not_have_are_named() -> None:
    fast = text_host()
    cache = fast(IDS).past_key_values
    with pytest.raises(InputError, match="3 rows came, and the state has 1"):
        fast(torch.tensor([[5], [6], [7]]), position_ids=torch.full((3, 1), 5), past_key_values=cache)
    assert np.isfinite(fast(IDS[:, :1], past_key_values=cache).logits.numpy()).all()
