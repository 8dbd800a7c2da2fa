"""Encoder-decoders: how they are described, called as parts, and driven behind their encoder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core.errors import InputError
from optimum_core.generation.encoder_decoder_session import Encoded, EncoderDecoder
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.model_session import EncoderDecoderSession, open_session
from optimum_core.generation.settings import Settings, read_settings, start_ids
from optimum_core.hardware import detect
from optimum_core.measure.workload import Limits, encoder_decoder_workload
from optimum_core.models.decoders.description import NotADecoderError
from optimum_core.models.decoders.parts import graphs_of, parts_of
from optimum_core.models.exporting.tracing import flat_module, graph_inputs, graph_outputs, sample_tensors
from optimum_core.models.sources.source import MemorySource
from optimum_core.plugins import manager
from optimum_core.search.builder import eager_artifact
from optimum_core.testing.decoders import decoder_of
from optimum_core.testing.encoder_decoders import described, encoder_decoder, part_request
from optimum_core.types import Fidelity, SessionRequest
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues


def eager(kind: str) -> EncoderDecoder:
    request = SessionRequest(
        backend="torch", artifact=eager_artifact(described(kind)), device="cpu", hardware=detect(),
        source=MemorySource(encoder_decoder(kind)),
    )  # fmt: skip
    session = open_session(manager(), request)
    assert isinstance(session, EncoderDecoderSession)
    return session.parts


# Description.


def test_keys_and_values_of_cross_attention_are_inputs_of_the_decoder() -> None:
    known = decoder_of(described("t5"))
    names = [spec.name for spec in known.inputs]
    cross = [f"cross.{layer}.{name}" for layer in (0, 1) for name in ("key", "value")]
    assert names == ["input_ids", "attention_mask", "encoder_attention_mask", *cross, "logits_to_keep"]
    assert known.encoder is not None
    assert [spec.name for spec in known.encoder.cross.outputs] == cross
    eager = [spec.name for spec in parts_of(described("t5"), eager=True)["decoder"].inputs]
    assert eager == ["input_ids", "attention_mask", "encoder_attention_mask", "encoder_hidden_states", "logits_to_keep"]


def test_an_encoder_of_recordings_may_have_fixed_places_and_no_mask() -> None:
    known = {spec.name: spec for spec in decoder_of(described("whisper")).inputs}
    assert known["cross.0.key"].shape == ("batch", 4, 50, 8)
    assert known["position_ids"].default == "places"
    assert "encoder_attention_mask" not in known


@pytest.mark.parametrize("kind", ["moonshine", "speech_to_text", "speecht5", "wav2vec2_mbart"])
def test_an_encoder_may_make_a_mask_of_its_own(kind: str) -> None:
    """Of the samples' or frames', of which it makes fewer places. The last one's configuration counts more layers than
    its decoder has."""
    known = decoder_of(described(kind)).encoder
    assert known is not None
    assert len(decoder_of(described(kind)).state.layers) == 2
    assert [spec.name for spec in known.encoder.outputs] == ["last_hidden_state", "encoder_attention_mask"]


@pytest.mark.parametrize(
    ("kind", "message"), [("fsmt", "no ids or mask"), ("prophetnet", "something else than the whole")]
)
def test_a_model_of_other_parts_says_why_it_has_none(kind: str, message: str) -> None:
    with pytest.raises(NotADecoderError, match=message):
        described(kind)


def test_the_edges_of_the_pictures_before_a_decoder_may_be_fixed() -> None:
    free = described("donut")
    made = free.pinned("width", 64)
    parts = {graph.name: graph for graph in graphs_of(made)}
    assert parts["encoder"].interface.inputs[0].shape == ("batch", 3, 32, 64) == made.inputs[0].shape
    assert free.inputs[0].shape == ("batch", 3, 32, "width")
    assert parts["encoder"].samples()["pixel_values"].shape[3] == 64
    assert parts["decoder"].interface.inputs == decoder_of(free).inputs


def test_an_encoder_is_called_as_generate_calls_it_where_the_whole_takes_no_cache() -> None:
    """Switch Transformers hand `use_cache` to their encoder too, which refuses it; and their encoder's output has more
    than hidden states."""
    assert len(decoder_of(described("switch")).state.layers) == 2


def test_outputs_that_generation_does_not_read_are_left_out_and_named() -> None:
    signature = described("t5gemma")
    assert [spec.name for spec in signature.outputs] == ["logits", "encoder_last_hidden_state"]
    assert signature.structure.keys == ("logits", "encoder_last_hidden_state")
    assert signature.notes == ("calls give no decoder_hidden_states: generation does not read them",)


@pytest.mark.parametrize("kind", ["t5", "moonshine"])
def test_every_part_is_a_pure_function_of_its_inputs(kind: str) -> None:
    from pathlib import Path

    for graph in graphs_of(described(kind)):
        request = part_request(kind, graph, "any", "any", Path())
        tensors = sample_tensors(request)
        assert list(tensors) == [spec.name for spec in graph_inputs(request)]
        with torch.no_grad():
            made = flat_module(encoder_decoder(kind), request)(*tensors.values())
        lengths = {"batch": 2, "kept": 3, "total": 9, "source": 7}
        for spec, tensor in zip(graph_outputs(request), made, strict=True):
            if graph.name != "encoder":
                assert tuple(tensor.shape) == tuple(lengths.get(str(axis), axis) for axis in spec.shape), spec.name


# The eager model as parts, and the comparison of others with it.


@pytest.mark.parametrize("kind", ["bart", "whisper", "m2m_100", "speech_to_text", "wav2vec2_mbart"])
def test_the_eager_parts_pass_the_dialogues_and_wrong_ones_do_not(kind: str) -> None:
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    dialogues = drawn_dialogues(encoder_decoder(kind), described(kind))
    right = with_dialogues(nothing, eager(kind), dialogues)
    assert right.passed, right.worst
    assert len(right.results) == 7
    wrong = with_dialogues(nothing, _OtherRows(eager(kind)), dialogues)
    assert not wrong.passed


class _OtherRows(EncoderDecoder):
    """Parts whose decoder reads the encoder's rows in another order."""

    def __init__(self, parts: EncoderDecoder) -> None:
        vars(self).update(vars(parts))

    def encode(self, inputs: Any) -> Encoded:
        made = super().encode(inputs)
        return Encoded(hidden=np.roll(made.hidden, 1, axis=0), mask=made.mask)


def test_dialogues_run_an_encoder_once_for_each_row() -> None:
    """An encoder of recordings takes most of the time of a comparison."""
    rows, parts = list[int](), eager("bart")
    own = parts.encode

    def counting(inputs: Any) -> Encoded:
        rows.append(len(inputs["input_ids"]))
        return own(inputs)

    parts.encode = counting  # type: ignore[method-assign]
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    assert with_dialogues(nothing, parts, drawn_dialogues(encoder_decoder("bart"), described("bart"))).passed
    assert rows == [1, 2]


def test_rows_that_repeat_are_read_once_and_exchanging_them_copies_nothing() -> None:
    parts = eager("bart")
    ids = np.random.default_rng(0).integers(3, 99, (2, 6))
    one = parts.encode({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    doubled = parts.read(Encoded(hidden=one.hidden.repeat(2, 0), mask=np.ones((4, 6), np.int64)))
    context = doubled.context
    assert context is not None and len(context) == 4
    assert context.selected([1, 0, 3, 3]) is context
    exchanged = context.selected([2, 3, 0, 1])
    assert np.array_equal(exchanged.arrays["encoder_hidden_states"][0], one.hidden[1])
    assert context.arrays["encoder_hidden_states"].shape[0] == 4


def test_a_decoder_of_other_rows_than_its_encoder_is_refused() -> None:
    parts = eager("bart")
    ids = np.full((2, 5), 7)
    decoder = parts.after({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    with pytest.raises(InputError, match="3 rows came for the decoder, and the encoder has read 2"):
        decoder.begin(3)


# Without torch's loop.


@pytest.mark.parametrize("kind", ["t5_gated", "mbart"])
def test_the_loop_writes_what_transformers_writes(kind: str) -> None:
    """With padding in the encoder, a forced first and last token, and tokens that are not allowed."""
    ids = np.random.default_rng(1).integers(3, 99, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    module = encoder_decoder(kind)
    plain = {"attention_mask": torch.tensor(mask), "do_sample": False, "num_beams": 1, "max_new_tokens": 14}
    forced: dict[str, Any] = {"forced_bos_token_id": 9, "forced_eos_token_id": 11, "begin_suppress_tokens": [4]}
    free = module.generate(torch.tensor(ids), eos_token_id=None, **plain)
    forced["suppress_tokens"] = [int(free[0, 3])]
    want = module.generate(torch.tensor(ids), eos_token_id=98, **plain, **forced)
    asked = Settings(
        max_new_tokens=14, eos=(98,), pad=0, start=int(free[0, 0]), forced_bos=9, forced_eos=(11,),
        suppress_tokens=tuple(forced["suppress_tokens"]), begin_suppress_tokens=(4,),
    )  # fmt: skip
    decoder = eager(kind).after({"input_ids": ids, "attention_mask": mask})
    tokens = list(next_tokens(decoder, start_ids(asked, 3, "test"), asked))
    got = np.stack(tokens, axis=1)
    assert np.array_equal(got, want[:, 1:].numpy())
    assert len(np.unique(got)) > 4


def test_the_first_token_is_the_models_own(tmp_path: Any) -> None:
    (tmp_path / "config.json").write_text('{"bos_token_id": 3, "decoder_start_token_id": 5}')
    assert read_settings(tmp_path, {}).start == 5
    assert read_settings(tmp_path, {"decoder_start_token_id": 7}).start == 7
    with pytest.raises(InputError, match="no first token"):
        start_ids(read_settings(tmp_path / "none", {}), 2, "test")


def test_the_workload_is_a_text_for_the_encoder_and_new_tokens() -> None:
    signature = described("bart")
    inputs = signature.inputs[:2]
    limits = Limits.of(signature.ranges)
    found = encoder_decoder_workload(None, inputs, limits, 128)
    assert [(item.lengths, item.new) for item in found] == [
        ({"batch": 1, "sequence": 126}, 32), ({"batch": 4, "sequence": 64}, 32),
    ]  # fmt: skip
    stated = encoder_decoder_workload([(2, 9, 5), {"batch": 3, "new": 7}], inputs, limits, 128)
    assert [(item.lengths.get("sequence"), item.new) for item in stated] == [(9, 5), (None, 7)]
    with pytest.raises(Exception, match="128 positions"):
        encoder_decoder_workload([(1, 9, 128)], inputs, limits, 128)
    sounds = encoder_decoder_workload([(2, 6)], described("whisper").inputs[:1], limits, 64)
    assert sounds[0].lengths == {"batch": 2}


def test_a_traced_encoder_that_shortens_its_mask_takes_other_lengths(tmp_path: Path) -> None:
    """Moonshine counts what its convolutions leave in Python, which a trace would make a constant."""
    graph = next(graph for graph in graphs_of(described("moonshine")) if graph.name == "encoder")
    request = part_request("moonshine", graph, "onnx", "onnx", tmp_path)
    part = flat_module(encoder_decoder("moonshine"), request)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what torch and transformers say of a trace
        traced = torch.jit.trace(part, tuple(sample_tensors(request).values()), check_trace=False)  # type: ignore[no-untyped-call]
        drawn = torch.from_numpy(np.random.default_rng(4).standard_normal((2, 9600)).astype(np.float32))
        for length in (1600, 2500, 9600):
            mask = torch.ones((2, length), dtype=torch.int64)
            mask[1, length // 2 :] = 0
            for wanted, found in zip(part(drawn[:, :length], mask), traced(drawn[:, :length], mask), strict=True):
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
