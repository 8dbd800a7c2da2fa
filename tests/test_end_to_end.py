"""A trained model, from its directory to a deployed artifact: the same values all the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.errors import InputError
from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Event

SENTENCES = [
    "A man is eating a piece of bread.",
    "The new film was shown at the festival, and the critics did not like it at all; the audience did.",
    "Bonjour.",
]
SHAPES = ((1, 16), (2, 40))


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """The same model eager and accelerated."""

    eager: Any
    tokenizer: Any
    fast: AcceleratedModel
    events: tuple[Event, ...]


@pytest.fixture(scope="module")
def encoder(minilm_directory: Path) -> Encoder:
    events: list[Event] = []
    fast = accelerate(minilm_directory, task="feature-extraction", shapes=SHAPES, budget=1, progress=events.append)
    eager = AutoModel.from_pretrained(minilm_directory).eval()
    return Encoder(
        eager=eager, tokenizer=AutoTokenizer.from_pretrained(minilm_directory), fast=fast, events=tuple(events)
    )


def _eager(encoder: Encoder, inputs: Any) -> Any:
    with torch.no_grad():
        return encoder.eager(**inputs)


def test_torch_in_gives_torch_out_in_the_original_class(encoder: Encoder) -> None:
    inputs = encoder.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    want, got = _eager(encoder, inputs), encoder.fast(**inputs)
    assert type(got) is type(want) is BaseModelOutputWithPoolingAndCrossAttentions
    assert list(got) == list(want)
    torch.testing.assert_close(got.last_hidden_state, want.last_hidden_state, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.pooler_output, want.pooler_output, rtol=1e-3, atol=1e-3)


def test_numpy_in_gives_numpy_out(encoder: Encoder) -> None:
    inputs = encoder.tokenizer(SENTENCES[:1], return_tensors="np")
    want = _eager(encoder, encoder.tokenizer(SENTENCES[:1], return_tensors="pt"))
    got = encoder.fast(**inputs)
    assert isinstance(got.last_hidden_state, np.ndarray)
    np.testing.assert_allclose(got.last_hidden_state, want.last_hidden_state.numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(got[0], got["last_hidden_state"])


def test_by_position_and_as_tuple(encoder: Encoder) -> None:
    inputs = encoder.tokenizer(SENTENCES[1:2], return_tensors="pt")
    names = [spec.name for spec in encoder.fast.manifest.inputs]
    got = encoder.fast(*(inputs[name] for name in names), return_dict=False)
    assert type(got) is tuple
    torch.testing.assert_close(got[0], _eager(encoder, inputs)[0], rtol=1e-3, atol=1e-3)


def test_a_mask_left_out_means_ones(encoder: Encoder) -> None:
    ids = encoder.tokenizer(SENTENCES[:1], return_tensors="pt")["input_ids"]
    torch.testing.assert_close(
        encoder.fast(input_ids=ids).last_hidden_state,
        _eager(encoder, {"input_ids": ids}).last_hidden_state,
        rtol=1e-3,
        atol=1e-3,
    )


def test_report_says_what_was_tried_and_why_this_one(encoder: Encoder) -> None:
    report = encoder.fast.report
    assert report is not None and report.chosen is not None
    assert [item.outcome for item in report.candidates].count("chosen") == 1
    assert {"ort", "torch"} <= {item.backend for item in report.candidates}
    assert all(item.reason for item in report.candidates)
    assert report.workload == ("1x16", "2x40")
    timed = [item for item in report.candidates if item.outcome in ("chosen", "slower")]
    assert all([one.shape for one in item.measurements] == ["1x16", "2x40"] for item in timed)
    assert not report.from_cache


def test_fidelity_names_the_cases_that_were_compared(encoder: Encoder) -> None:
    fidelity = encoder.fast.manifest.fidelity
    assert fidelity is not None and fidelity.passed
    cases = {result.case for result in fidelity.results}
    if encoder.fast.backend != "torch":
        assert {"batch 1", "batch 3", "left padding", "every axis at once", "the processor's own output"} <= cases
    assert {result.output for result in fidelity.results} == {"last_hidden_state", "pooler_output"}


def test_auto_does_not_build_for_other_machines(encoder: Encoder) -> None:
    supports = manager().supports(detect())
    absent = {
        (name, offer.device) for name, found in supports.items() for offer in found.offers if offer.proof == "none"
    }
    assert encoder.fast.report is not None
    tried = {(item.backend, item.device) for item in encoder.fast.report.candidates}
    assert tried and not tried & absent


def test_again_it_comes_from_the_cache_and_is_not_exported(encoder: Encoder, minilm_directory: Path) -> None:
    events: list[Event] = []
    if encoder.fast.report is not None and any("machine was busy" in note for note in encoder.fast.report.notes):
        pytest.skip("a decision of a busy machine is not kept")
    again = accelerate(minilm_directory, task="feature-extraction", shapes=SHAPES, budget=1, progress=events.append)
    assert {event.stage for event in encoder.events} > {"export", "verify", "measure"}
    assert {event.stage for event in events} == {"read", "cache"}
    assert again.report is not None and again.report.from_cache
    assert again.report.candidates == (encoder.fast.report.candidates if encoder.fast.report else None)
    inputs = encoder.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    torch.testing.assert_close(again(**inputs)[0], encoder.fast(**inputs)[0])


def test_saved_and_loaded_it_is_the_same(encoder: Encoder, tmp_path: Path) -> None:
    encoder.fast.save_pretrained(tmp_path / "out")
    assert {"optimum.json", "config.json", "tokenizer.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    loaded = load(tmp_path / "out")
    inputs = encoder.tokenizer(SENTENCES, padding=True, return_tensors="pt")
    torch.testing.assert_close(loaded(**inputs)[0], encoder.fast(**inputs)[0])
    assert loaded.config.hidden_size == encoder.eager.config.hidden_size
    assert loaded.manifest.fidelity == encoder.fast.manifest.fidelity
    AutoTokenizer.from_pretrained(tmp_path / "out")


def test_pipeline_gives_the_same_embeddings(encoder: Encoder) -> None:
    fast = pipeline("feature-extraction", model=encoder.fast, tokenizer=encoder.tokenizer)
    eager = pipeline("feature-extraction", model=encoder.eager, tokenizer=encoder.tokenizer)
    for got, want in zip(fast(SENTENCES), eager(SENTENCES), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_threads_get_what_one_thread_gets(encoder: Encoder) -> None:
    calls = [
        encoder.tokenizer([" ".join(SENTENCES[: 1 + i % 3])] * (1 + i % 4), return_tensors="np") for i in range(32)
    ]
    serial = [encoder.fast(**inputs)[0] for inputs in calls]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda inputs: encoder.fast(**inputs)[0], calls))
    for got, want in zip(parallel, serial, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": None}, "'input_ids' is missing"),
        ({"pixel_values": torch.ones(1)}, "no input 'pixel_values'"),
        ({"output_attentions": True}, "output_attentions"),
        ({"attention_mask": torch.ones(1, 2, dtype=torch.int64)}, "as in the other inputs"),
        ({"input_ids": torch.ones(1, 4)}, "dtype int64"),
    ],
)
def test_inputs_that_do_not_fit_are_named(encoder: Encoder, change: dict[str, Any], said: str) -> None:
    inputs = {**encoder.tokenizer(SENTENCES[:1], return_tensors="pt"), **change}
    with pytest.raises(InputError, match=said):
        encoder.fast(**inputs)
