"""Decoders: how they are described, exported as pure functions, and run eagerly with their state."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import SessionError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.models.decoders.description import NotADecoderError
from optimum_core.models.exporting.tracing import flat_module, graph_inputs, graph_outputs, named_module, sample_tensors
from optimum_core.models.generators import note_one_pass
from optimum_core.models.signatures.decoder_signature import DecoderSignature
from optimum_core.models.sources.source import open_source
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, decoder_request, described, eager_decoder
from optimum_core.types import StatefulSession


def known_of(kind: str) -> DecoderSignature:
    found = described(kind).decoder
    assert found is not None
    return found


def test_the_cache_is_described_layer_by_layer() -> None:
    layers = known_of("gemma2").state.layers
    assert [(layer.heads, layer.head_size, layer.window) for layer in layers] == [(2, 8, 8), (2, 8, None)]
    assert known_of("deepseek_v2").state.layers[0].value_size == 8


def test_layers_that_read_the_cache_of_others_keep_nothing() -> None:
    """Gemma 3n: the last two of four layers read what the first two keep, and the pure function computes the same."""
    assert len(known_of("gemma3n").state.layers) == 2


@pytest.mark.parametrize(("kind", "default"), [("llama", "places"), ("opt", "counts")])
def test_positions_are_those_that_eager_assumes(kind: str, default: str) -> None:
    assert {spec.name: spec.default for spec in known_of(kind).inputs}["position_ids"] == default


@pytest.mark.parametrize("kind", ["bloom", "falcon_alibi"])
def test_a_model_that_reads_no_positions_takes_none(kind: str) -> None:
    assert [spec.name for spec in known_of(kind).inputs] == ["input_ids", "attention_mask", "logits_to_keep"]


def test_a_recurrent_model_is_no_decoder_and_says_why() -> None:
    with pytest.raises(NotADecoderError, match="no cache of keys and values"):
        described("mamba")


def test_a_report_says_why_a_model_does_not_generate(tmp_path: Path) -> None:
    for module, notes in ((decoder("gpt2"), 1), (torch.nn.Linear(2, 2).eval(), 0)):
        source = open_source(module)
        note_one_pass(source, "it takes more than tokens")
        assert len(source.notes) == notes
        assert all("only where it runs eagerly: it takes more than tokens" in note for note in source.notes)


def test_padding_on_the_right_has_the_position_that_the_model_counts_there() -> None:
    """OPT counts -1, which is a row of its table."""
    module, ids = decoder("opt"), np.full((2, 9), 7)
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        wanted = module(torch.as_tensor(ids), attention_mask=torch.as_tensor(mask)).logits.numpy()
    found = Decoder(eager_decoder("opt"), manager().binder).begin(2).feed(ids, mask)
    assert np.allclose(found, wanted, atol=1e-5)


def test_a_model_that_raises_on_a_cache_of_keys_and_values_is_no_decoder_and_says_why() -> None:
    with pytest.raises(NotADecoderError, match="with a cache filled by hand: MiniMax uses cache of its own"):
        described("minimax")


@pytest.mark.parametrize("kind", ["llama", "bloom", "gemma2"])
def test_the_pure_function_has_the_state_as_tensors(kind: str) -> None:
    request = decoder_request(kind, "any", "any", Path())
    tensors = sample_tensors(request)
    assert list(tensors) == [spec.name for spec in graph_inputs(request)]
    with torch.no_grad():
        made = flat_module(decoder(kind), request)(*tensors.values())
    for spec, tensor in zip(graph_outputs(request), made, strict=True):
        lengths = {"batch": 2, "kept": 3, "total": 9}
        assert tuple(tensor.shape) == tuple(lengths.get(str(axis), axis) for axis in spec.shape), spec.name


def test_the_pure_function_takes_tensors_by_name_whether_or_not_these_are_identifiers() -> None:
    request = decoder_request("llama", "any", "any", Path())
    tensors = sample_tensors(request)
    named = named_module(decoder("llama"), request)
    assert list(inspect.signature(named).parameters)[-4:] == [
        f"past_key_values_{layer}_{kind}" for layer in range(2) for kind in ("key", "value")
    ]
    with torch.no_grad():
        made = named(**tensors)
        again = named(**{name.replace(".", "_"): tensor for name, tensor in tensors.items()})
    assert list(made) == [spec.name for spec in graph_outputs(request)]
    assert all(torch.equal(made[name], again[name]) for name in made)


def feed(state: Any, known: DecoderSignature, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> Any:
    """Feed new tokens; `mask` is of all positions."""
    new = ids.shape[1]
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": np.clip(mask.cumsum(1) - 1, 0, None)[:, -new:],
        "logits_to_keep": np.arange(new),
    }
    return manager().binder(state)({spec.name: given[spec.name] for spec in known.inputs})["logits"]


def whole(kind: str, known: DecoderSignature, ids: np.ndarray[Any, Any], mask: np.ndarray[Any, Any]) -> Any:
    further = {}
    if any(spec.name == "position_ids" for spec in known.inputs):
        further["position_ids"] = torch.as_tensor(np.clip(mask.cumsum(1) - 1, 0, None))
    with torch.no_grad():
        made = decoder(kind)(
            input_ids=torch.as_tensor(ids), attention_mask=torch.as_tensor(mask), use_cache=False, **further
        )
    return made.logits.numpy()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "bloom"])
def test_the_eager_state_goes_on_where_it_was(kind: str) -> None:
    """In chunks beyond the window of 8, with padding on the left, after rows were exchanged and positions removed."""
    known = known_of(kind)
    session = eager_decoder(kind)
    assert isinstance(session, StatefulSession)
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 99, (3, 20))
    mask = np.ones_like(ids)
    mask[1, :4] = 0
    wanted = whole(kind, known, ids, mask)
    state = session.begin(3)
    valid = mask.astype(bool)
    for start, end in ((0, 6), (6, 7), (7, 12)):
        got = feed(state, known, ids[:, start:end], mask[:, :end])
        kept = valid[:, start:end]
        np.testing.assert_allclose(got[kept], wanted[:, start:end][kept], atol=2e-4)
    other = state.fork()
    state.crop(9)
    state.reorder([2, 1, 1, 0])
    rows = [2, 1, 1, 0]
    got = feed(state, known, ids[rows, 9:20], mask[rows])
    np.testing.assert_allclose(got, wanted[rows, 9:20], atol=2e-4)
    assert (state.length, other.length) == (20, 12)
    np.testing.assert_allclose(feed(other, known, ids[:, 12:], mask), wanted[:, 12:], atol=2e-4)
    state.crop(0)
    fresh_ids, fresh_mask = ids[rows, 4:9], mask[rows, 4:9]
    got = feed(state, known, fresh_ids, fresh_mask)
    np.testing.assert_allclose(got, whole(kind, known, fresh_ids, fresh_mask), atol=2e-4)
    state.close()
    with pytest.raises(SessionError, match="closed"):
        feed(state, known, ids[:, :1], mask[:, :1])
