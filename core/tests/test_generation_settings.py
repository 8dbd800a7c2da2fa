"""Settings of generation without torch, and the choice of tokens by them, as transformers has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from optimum_core.errors import InputError, OptionError
from optimum_core.generation.decoder_session import counted
from optimum_core.generation.sampling import allowed, chooser, drawn, penalized, shaped, softmax
from optimum_core.generation.settings import HONOURED, Settings, read_settings
from optimum_core.generation.unsupported import INERT, NEUTRAL, RESULT


def test_the_call_goes_before_the_models_own_settings(tmp_path: Path) -> None:
    stated = {"eos_token_id": [2, 5], "temperature": 0.5, "top_k": 7, "do_sample": True}
    (tmp_path / "generation_config.json").write_text(json.dumps(stated))
    found = read_settings(tmp_path, {"temperature": 0.9, "max_new_tokens": 3, "top_p": None})
    assert (found.eos, found.pad, found.top_k, found.temperature, found.do_sample) == ((2, 5), 2, 7, 0.9, True)
    assert not read_settings(tmp_path, {"do_sample": False}).do_sample
    assert read_settings(tmp_path / "none", {"top_k": 3}).do_sample  # to shape probabilities means to draw


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new"),
        ({"seed": -1}, "seed: -1 makes no sense"),
        ({"seed": 1.5}, "seed: it cannot be 1.5"),
        ({"max_new_tokens": "5"}, r"pass a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens"),
        ({"temperature": "hot"}, "temperature: it cannot be 'hot'"),
        ({"temperature": float("nan")}, "temperature"),
        ({"do_sample": "yes"}, "pass True or False"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"bad_words_ids": [7]}, "bad_words_ids"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        read_settings(tmp_path, given)


def test_numbers_of_arrays_and_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"top_k": 7.0, "eos_token_id": 2}')
    given = {"max_new_tokens": np.int64(3), "seed": np.uint8(4), "temperature": np.float32(2), "eos_token_id": [2, 3]}
    found = read_settings(tmp_path, given)
    assert (found.max_new_tokens, found.seed, found.temperature, found.eos, found.top_k) == (3, 4, 2.0, (2, 3), 7)
    assert read_settings(tmp_path, {"eos_token_id": torch.tensor([4, 5])}).eos == (4, 5)


def test_every_setting_of_transformers_is_honoured_refused_or_without_effect() -> None:
    """A name that a later transformers brings fails here until its effect is known."""
    stock = GenerationConfig()
    names = set(vars(stock)) - {"transformers_version", "_from_model_config"}
    kinds = (HONOURED - {"begins_with_task"}, set(NEUTRAL), INERT, RESULT)
    assert names - set().union(*kinds) == set()
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    for name, value in stock._get_default_generation_params().items():
        assert name not in NEUTRAL or value is None or value in NEUTRAL[name], name


@pytest.mark.parametrize(
    "stated",
    [
        {"num_beams": 3, "length_penalty": 2.0},
        {"encoder_repetition_penalty": 1.5},
        {"guidance_scale": 2.0},
        {"exponential_decay_length_penalty": [2, 1.5]},
        {"sequence_bias": [[[5], 10.0]]},
        {"stop_strings": ["good"]},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"typical_p": 0.5, "do_sample": True},
        {"watermarking_config": {"bias": 2.5}},
    ],
    ids=str,
)
def test_what_the_model_states_and_the_loop_lacks_is_refused(stated: dict[str, Any], tmp_path: Path) -> None:
    file, name = tmp_path / "generation_config.json", next(iter(stated))
    file.write_text(json.dumps(stated))
    with pytest.raises(OptionError, match=rf"{name}=.*generation_config\.json[\s\S]* pass {name}="):
        read_settings(tmp_path, {})
    for off in (None, *NEUTRAL[name]):
        read_settings(tmp_path, {name: off})
    file.write_text(json.dumps({**stated, "use_cache": True, name: (*NEUTRAL[name], None)[0]}))
    read_settings(tmp_path, {})


def test_draws_alone_are_shaped_by_some_settings(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"typical_p": 0.5}')
    assert read_settings(tmp_path, {}).top_k == 50  # as in transformers, and without effect until tokens are drawn
    with pytest.raises(OptionError, match="typical_p"):
        read_settings(tmp_path, {"temperature": 0.7})


def test_a_greatest_length_counts_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"max_length": 12, "min_length": 8, "min_new_tokens": 2}')
    found = read_settings(tmp_path, {})
    assert [found.for_prompt(length).max_new_tokens for length in (1, 11)] == [11, 1]
    assert [found.for_prompt(length).min_new_tokens for length in (1, 11)] == [2, 2]  # it goes before, as there
    least = Settings(min_length=8)
    assert [least.for_prompt(length).min_new_tokens for length in (1, 11)] == [7, 0]
    with pytest.raises(InputError, match="prompt has 12 tokens, and max_length is 12"):
        found.for_prompt(12)
    assert read_settings(tmp_path, {"max_new_tokens": 5}).for_prompt(40).max_new_tokens == 5


# Choice of tokens.


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), temperature=st.sampled_from([None, 0.5, 1.7]), top_k=st.sampled_from([None, 1, 5, 99]),
    top_p=st.sampled_from([None, 0.1, 0.8, 1.0]), min_p=st.sampled_from([None, 0.2]),
)  # fmt: skip
def test_scores_are_shaped_as_transformers_does(
    seed: int, temperature: float | None, top_k: int | None, top_p: float | None, min_p: float | None
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((3, 20)).astype(np.float32) * 3
    ids = rng.integers(0, 20, (3, 5))
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.3)])
    if temperature is not None:
        processors.append(TemperatureLogitsWarper(temperature))
    if top_k is not None:
        processors.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p is not None:
        processors.append(MinPLogitsWarper(min_p))
    want = processors(torch.tensor(ids), torch.tensor(scores)).numpy()
    chosen = Settings(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    np.testing.assert_allclose(shaped(penalized(ids, scores, 1.3), chosen), want, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1e-320, 1e-40, 1e-7, 1e40, 1e308])
def test_temperatures_beyond_32_bits_shape_as_the_nearest_does(temperature: float) -> None:
    scores = np.array([[0.5, 3.0, -np.inf, 2.9]], np.float32)
    shares = softmax(shaped(scores, Settings(temperature=temperature)))
    np.testing.assert_allclose(shares, [[0, 1, 0, 0]] if temperature < 1 else [[1 / 3, 1 / 3, 0, 1 / 3]], atol=1e-6)


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    scores = np.log(np.tile(np.array([[0.1, 0.0, 0.6, 0.3]]) + 1e-30, (4000, 1)))
    found = drawn(scores, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 4000, [0.1, 0.0, 0.6, 0.3], atol=0.03)
    chosen = Settings(do_sample=True, seed=3)
    assert (chooser(chosen)(found[:0], scores) == chooser(chosen)(found[:0], scores)).all()


def test_positions_are_counted_by_the_mask() -> None:
    assert counted(np.array([[0, 0, 1, 1], [1, 1, 1, 1]]), 3).tolist() == [[0, 0, 1], [1, 2, 3]]


def test_a_prompt_without_a_mask_has_that_of_its_padding_as_in_transformers(tmp_path: Path) -> None:
    ids = np.array([[0, 0, 7, 8], [5, 6, 7, 8]])
    for stated, is_seen in (({"pad_token_id": 0, "eos_token_id": 2}, True), ({"pad_token_id": 0}, True),
                            ({"pad_token_id": 2, "eos_token_id": [2, 0]}, False), ({"eos_token_id": 0}, False),
                            ({"pad_token_id": 0, "eos_token_id": [3, 0]}, False), ({}, False)):  # fmt: skip
        (tmp_path / "generation_config.json").write_text(json.dumps(stated))
        mask = read_settings(tmp_path, {}).mask_of(ids)
        assert (None if mask is None else mask.tolist()) == ([[0, 0, 1, 1], [1, 1, 1, 1]] if is_seen else None)
    assert Settings(padding=0).mask_of(ids.astype(float)) is None  # a picture or a sound


def test_shapes_of_draws_that_greedy_decoding_does_not_go_by_may_be_anything(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.0, "top_p": 0.0, "do_sample": False}))
    assert not read_settings(tmp_path, {}).do_sample
    with pytest.raises(OptionError, match="temperature"):
        read_settings(tmp_path, {"do_sample": True})


def test_what_is_forced_cannot_be_suppressed(tmp_path: Path) -> None:
    """transformers refuses it too."""
    with pytest.raises(OptionError, match="forced"):
        read_settings(tmp_path, {"forced_eos_token_id": 7, "suppress_tokens": [7, 8]})
    assert read_settings(tmp_path, {"forced_eos_token_id": [7, 9], "suppress_tokens": [7, 8]}).forced_eos == (7, 9)


def test_ids_that_are_no_token_forbid_none() -> None:
    scores = np.zeros((1, 4), np.float32)
    found = allowed(scores, Settings(eos=(-1,), suppress_tokens=(-1, 2, 9), min_new_tokens=3), 1, 5, np.zeros((1, 5)))
    assert np.isinf(found).tolist() == [[False, False, True, False]]
