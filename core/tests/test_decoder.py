"""Decoders: how they are described, exported as pure functions, and run eagerly with their state."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import ExportError, SessionError, UnavailableError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.models.decoders import eager_state, kernels
from optimum_core.models.decoders.description import NotADecoderError, empty
from optimum_core.models.decoders.stepping import piece
from optimum_core.models.exporting.tracing import flat_module, graph_inputs, graph_outputs, named_module, sample_tensors
from optimum_core.models.generators import note_one_pass
from optimum_core.models.signatures.decoder_signature import DecoderSignature
from optimum_core.models.sources.source import open_source
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, decoder_of, decoder_request, described, eager_decoder
from optimum_core.types import LayerState, StatefulSession


def test_the_cache_is_described_layer_by_layer() -> None:
    layers = decoder_of(described("gemma2")).state.layers
    assert [(layer.heads, layer.head_size, layer.window) for layer in layers] == [(2, 8, 8), (2, 8, None)]
    assert decoder_of(described("deepseek_v2")).state.layers[0].value_size == 8


def test_layers_that_read_the_cache_of_others_keep_nothing() -> None:
    """Gemma 3n: the last two of four layers read what the first two keep, and the pure function computes the same."""
    assert len(decoder_of(described("gemma3n")).state.layers) == 2


@pytest.mark.parametrize(("kind", "default"), [("llama", "places"), ("opt", "counts")])
def test_positions_are_those_that_eager_assumes(kind: str, default: str) -> None:
    assert {spec.name: spec.default for spec in decoder_of(described(kind)).inputs}["position_ids"] == default


@pytest.mark.parametrize("kind", ["bloom", "falcon_alibi"])
def test_a_model_that_reads_no_positions_takes_none(kind: str) -> None:
    names = [spec.name for spec in decoder_of(described(kind)).inputs]
    assert names == ["input_ids", "attention_mask", "logits_to_keep"]


def test_states_of_a_fixed_size_are_described_beside_keys_and_values() -> None:
    hybrid, alone = decoder_of(described("falcon_h1")).state, decoder_of(described("mamba")).state
    assert hybrid.layers[0] == LayerState(heads=2, head_size=8, convolutions=((40, 4),), recurrences=((4, 8, 4),))
    assert alone.layers[0] == LayerState(kind="recurrent", convolutions=((64, 4),), recurrences=((64, 4),))
    assert [spec.name for spec in hybrid.past][:4] == [
        f"past_key_values.0.{name}" for name in ("key", "value", "convolution.0", "recurrence.0")
    ]
    assert [spec.shape for spec in alone.present][:2] == [("batch", 64, 4), ("batch", 64, 4)]
    assert not hybrid.crop and not alone.crop and decoder_of(described("llama")).state.crop


@pytest.mark.parametrize("kind", ["mamba", "zamba", "lfm2", "falcon_h1", "qwen3_next"])
def test_recurrences_go_on_from_a_state_by_any_number_of_tokens(kind: str) -> None:
    """Beyond the 64 of a block, with padding, and the model itself is as it was."""
    module, known = decoder(kind), decoder_of(described(kind))
    request = decoder_request(kind, "any", "any", Path())
    flat, outputs = flat_module(module, request), [spec.name for spec in graph_outputs(request)]
    ids, mask = np.random.default_rng(0).integers(3, 99, (2, 75)), np.ones((2, 75), np.int64)
    mask[1, :3] = 0
    counts = np.clip(mask.cumsum(1) - 1, 0, None)
    kept = dict(zip((spec.name for spec in known.state.past), empty(known.state, 2), strict=True))
    wanted = whole(kind, known, ids, mask)
    for start, end in ((0, 70), (70, 71), (71, 75)):
        new = {
            "input_ids": ids[:, start:end], "attention_mask": mask[:, :end], "position_ids": counts[:, start:end],
            "logits_to_keep": np.arange(end - start),
        }  # fmt: skip
        given = {**{name: torch.as_tensor(array) for name, array in new.items()}, **kept}
        with torch.no_grad():
            made = dict(zip(outputs, flat(*(given[spec.name] for spec in graph_inputs(request))), strict=True))
        valid = mask[:, start:end] == 1
        np.testing.assert_allclose(made["logits"].numpy()[valid], wanted[:, start:end][valid], atol=2e-3)
        names = zip(known.state.past, known.state.present, strict=True)
        kept = {past.name: made[present.name] for past, present in names}
    assert not any("forward" in vars(layer) for layer in module.modules())


def test_an_argument_that_a_recurrence_does_not_know_is_refused_by_name() -> None:
    known = {"z": None, "use_associative_scan": True, "output_router_logits": True, "cu_seqlens": None}
    tokens, rates = torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1)
    given = (tokens, tokens, tokens, rates, rates, torch.zeros(1, 1, 3, 3), True)
    delta = kernels._KERNELS["chunk_gated_delta_rule"]
    assert delta(lambda: tokens, *given, **known)[0].shape == tokens.shape
    for kernel, name, value in (
        (delta, "scale", 0.5),
        (kernels._KERNELS["mamba_chunk_scan_combined"], "z", tokens),
        (kernels._KERNELS["selective_scan_fn"], "seq_idx", torch.zeros(1, 2)),
    ):
        with pytest.raises(ExportError, match=f"passes '{name}' to .*\n.*target='torch'"):
            kernel(lambda: tokens, *given[:5], **{name: value})


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


@pytest.mark.parametrize("kind", ["mamba", "falcon_h1"])
def test_a_recurrent_state_takes_no_token_back(kind: str) -> None:
    known = decoder_of(described(kind))
    ids, mask = np.random.default_rng(0).integers(3, 99, (2, 12)), np.ones((2, 12), np.int64)
    mask[1, :2] = 0
    generation = Decoder(eager_decoder(kind), manager().binder).begin(2)
    generation.feed(ids[:, :5], mask[:, :5], "counts")
    generation.reorder([1, 0])
    rows, other = [1, 0], generation.fork()
    got = [made.feed(ids[rows, 5:], mask[rows], "counts") for made in (generation, other)]
    for answer in got:
        np.testing.assert_allclose(answer, whole(kind, known, ids, mask)[rows, 5:], atol=2e-3)
    state = eager_decoder(kind).begin(2)
    feed(state, known, ids[:, :5], mask[:, :5])
    for held in (generation, state):
        with pytest.raises(UnavailableError, match="no tokens can be taken back"):
            held.crop(4)
    assert state.length == 5
    generation.crop(0)
    again = generation.feed(ids[:, 3:6], None, "counts")
    np.testing.assert_allclose(again, whole(kind, known, ids[:, 3:6], mask[:, 3:6]), atol=2e-3)


@pytest.mark.parametrize(("kind", "calls"), [("mamba", 2 + 4), ("qwen3_next", 1), ("falcon_h1", 1), ("lfm2", 1)])
def test_a_further_piece_may_have_padding(kind: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one call where eager goes on by itself; token by token in Mamba, which forgets its state."""
    known = decoder_of(described(kind))
    ids, mask = np.random.default_rng(0).integers(3, 99, (2, 9)), np.ones((2, 9), np.int64)
    mask[1, 5] = 0
    generation = Decoder(eager_decoder(kind), manager().binder).begin(2)
    generation.feed(ids[:, :5], None, "counts")
    generation.fork().feed(ids[:, 5:], None, "counts")  # tries once how the model goes on
    made: list[Any] = []
    forward = eager_state.EagerState.called

    def counted(*given: Any) -> Any:
        made.append(given)
        return forward(*given)

    monkeypatch.setattr(eager_state.EagerState, "called", counted)
    got = generation.feed(ids[:, 5:], mask, "counts")
    assert len(made) == calls
    valid = mask[:, 5:] == 1
    np.testing.assert_allclose(got[valid], whole(kind, known, ids, mask)[:, 5:][valid], atol=2e-3)


def test_padding_that_single_tokens_do_not_show_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager_state, "goes_on", lambda *_: False)  # as Jamba does not
    state = Decoder(eager_decoder("falcon_h1"), manager().binder).begin(2)
    ids, mask = np.full((2, 9), 5), np.ones((2, 9), np.int64)
    mask[1, 5] = 0
    state.feed(ids[:, :5], None, "counts")
    with pytest.raises(UnavailableError, match="reads no padding"):
        state.feed(ids[:, 5:], mask, "counts")
    assert state.length == 5


def test_pieces_of_what_layers_add_and_see_are_of_their_tokens() -> None:
    whole = {
        "inputs_embeds": torch.rand(2, 3, 8),
        "attention_mask": torch.ones(2, 7),
        "added.00": torch.rand(2, 3, 8),
        "visible.full": torch.rand(2, 3, 7),
        "position_ids": torch.rand(3, 2, 3),
    }
    shapes = {name: list(tensor.shape) for name, tensor in piece(whole, 1, 2).items()}
    assert shapes == {
        "inputs_embeds": [2, 1, 8], "attention_mask": [2, 6], "added.00": [2, 1, 8], "visible.full": [2, 1, 6],
        "position_ids": [3, 2, 1],
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "gemma2", "bloom"])
def test_the_eager_state_goes_on_where_it_was(kind: str) -> None:
    """In chunks beyond the window of 8, with padding on the left, after rows were exchanged and positions removed."""
    known = decoder_of(described(kind))
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
