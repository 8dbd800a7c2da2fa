"""Generation without torch: the loop beside eager's, its workload, and the check of dialogues."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from clocks import Clock
from optimum_core import accelerate
from optimum_core.errors import InputError, OptionError, UnavailableError
from optimum_core.generation import generator_workload
from optimum_core.generation.decoder_session import Decoder, Generation
from optimum_core.generation.generator_workload import timed_call, workload_of
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.model_session import GenerativeSession
from optimum_core.generation.settings import Settings, read_settings
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, described, eager_decoder
from optimum_core.types import Fidelity
from optimum_core.verify import dialogues as dialogues_module
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues


def eager(kind: str) -> Decoder:
    return Decoder(eager_decoder(kind), manager().binder)


# The loop.


@pytest.mark.parametrize(
    "stated",
    [
        {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 0.8},
        {"bad_words_ids": "seen"}, {"max_length": 15}, {"max_length": 30, "max_new_tokens": 4}, {},
        {"min_length": 15, "eos_token_id": "seen"}, {"min_new_tokens": 6, "eos_token_id": "seen"},
        {"max_length": 18, "min_length": 18, "eos_token_id": "seen", "forced_eos_token_id": 3},
        {"min_length": 30, "min_new_tokens": 2, "eos_token_id": "seen"},
    ],
    ids=str,
)  # fmt: skip
def test_the_loop_goes_by_the_settings_of_the_model(stated: dict[str, Any], tmp_path: Path) -> None:
    module, ids = decoder("llama"), np.random.default_rng(1).integers(3, 99, (2, 9))
    ids[0] = np.tile(ids[0, :3], 3)
    mask = np.ones_like(ids)
    mask[1, :4] = ids[1, :4] = 0
    given = {"inputs": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    free = module.generate(**given, max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=None)[:, 9:]
    seen = {"bad_words_ids": [free[0, :2].tolist(), [int(free[1, 2])], free[1, 5:8].tolist()],
            "eos_token_id": [int(free[0, 1]), int(free[1, 2])]}  # fmt: skip
    chosen = {name: seen[name] if value == "seen" else value for name, value in stated.items()}
    config = {"pad_token_id": 0, "eos_token_id": 98, **chosen}
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the default length
        want = module.generate(**given, generation_config=GenerationConfig(**config)).numpy()
    tokens = list(next_tokens(eager("llama"), ids, read_settings(tmp_path, {}), mask))
    assert np.array_equal(np.concatenate([ids, np.stack(tokens, 1)], 1), want)
    assert (
        stated.keys() & {"max_length", "max_new_tokens"}
        or want[0, 9:].tolist() != free[0, : want.shape[1] - 9].tolist()
    )


class _Penalties(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """OpenAI's formula: a score less the number of its token times `frequency`, and less `presence`."""

    def __init__(self, length: int, presence: float, frequency: float) -> None:
        self._length, self._presence, self._frequency = length, presence, frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for row, ids in enumerate(input_ids[:, self._length :].tolist()):
            for token in set(ids):
                scores[row, token] -= self._presence + self._frequency * ids.count(token)
        return scores


@pytest.mark.parametrize(("presence", "frequency"), [(0, 0), (2, 0), (0, 0.05), (-2, 0), (0.1, -0.2)])
def test_the_loop_adds_biases_and_takes_penalties_away(presence: float, frequency: float, tmp_path: Path) -> None:
    module, ids = decoder("llama"), np.random.default_rng(2).integers(3, 99, (2, 9))
    mask = np.ones_like(ids)
    mask[1, :4] = ids[1, :4] = 0
    given = {"inputs": torch.tensor(ids), "attention_mask": torch.tensor(mask), "max_new_tokens": 24}
    given |= {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    free = module.generate(**given)[0, 9:].tolist()
    bias = {free[0]: -0.3, free[-1]: 0.4, 50: 0.5}
    want = module.generate(
        **given,
        sequence_bias=[[[token], value] for token, value in bias.items()],
        logits_processor=LogitsProcessorList([_Penalties(9, presence, frequency)]),
    ).numpy()[:, 9:]
    assert want[0].tolist() != free
    weights = {"presence_penalty": presence, "frequency_penalty": frequency, "logit_bias": bias}
    settings = read_settings(tmp_path, {"max_new_tokens": 24, "pad_token_id": 0, **weights})
    found = np.stack(list(next_tokens(eager("llama"), ids, settings, mask)), 1)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    "stated",
    [{"presence_penalty": 2.5}, {"frequency_penalty": float("nan")}, {"logit_bias": {5: 101}}, {"logit_bias": 5}],
)
def test_weights_beyond_the_protocols_are_refused(stated: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=next(iter(stated))):
        read_settings(tmp_path, stated)


@pytest.mark.parametrize("kind", ["llama", "opt", "bloom", "gemma2"])
def test_the_loop_writes_what_transformers_writes(kind: str) -> None:
    """With rows padded on the left, which end at different places."""
    ids = np.random.default_rng(1).integers(3, 99, (3, 9))
    mask = np.ones_like(ids)
    mask[1, :4] = 0
    module = decoder(kind)
    plain = {"attention_mask": torch.tensor(mask), "do_sample": False, "max_new_tokens": 14, "pad_token_id": 0}
    free = module.generate(torch.tensor(ids), eos_token_id=None, **plain)
    ends = [int(free[0, 13]), int(free[2, 11])]
    want = module.generate(torch.tensor(ids), eos_token_id=ends, repetition_penalty=1.2, **plain)
    asked = Settings(max_new_tokens=14, eos=tuple(ends), pad=0, repetition_penalty=1.2)
    tokens = list(next_tokens(eager(kind), ids, asked, mask))
    assert np.array_equal(np.concatenate([ids, np.stack(tokens, 1)], 1), want.numpy())


def test_a_timed_generation_ends_when_it_shows_what_all_tokens_take(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    drives, clock = eager("llama"), Clock()
    feed = Generation.feed

    def slow(self: Generation, ids: Any, *rest: Any) -> Any:
        read.append(ids.shape[1])
        clock.seconds += 0.02
        return feed(self, ids, *rest)

    monkeypatch.setattr(Generation, "feed", slow)
    monkeypatch.setattr(generator_workload, "time", SimpleNamespace(perf_counter=clock))
    session = GenerativeSession(drives, (), ())
    inputs = {"input_ids": np.random.default_rng(1).integers(3, 99, (2, 9))}
    whole = timed_call(session, inputs, 20)()
    assert (len(read), whole.scale) == (20, 1.0)
    assert whole.first_seconds == pytest.approx(0.02)
    read.clear()
    monkeypatch.setattr(generator_workload, "_ENOUGH_SECONDS", 0.05)
    part = timed_call(session, inputs, 40)()
    assert read == [9, *[1] * 7]
    assert part.scale == pytest.approx(40 / 8)


def test_positions_beyond_the_model_are_refused_before_they_are_read() -> None:
    drives = eager("gpt2")
    drives.longest = 256
    generation = drives.begin(2)
    mask = np.ones((2, 260), np.int64)
    mask[:, :10] = 0
    generation.feed(np.full((2, 260), 5), mask, "counts", "last")  # 250 tokens, and padding
    with pytest.raises(InputError, match="257 positions, and the model has 256"):
        generation.feed(np.full((2, 7), 5), None, "counts")


@pytest.mark.parametrize("length", [3, 8, 10])
def test_a_mask_of_other_than_all_positions_is_refused(length: int) -> None:
    drives = eager("llama")
    generation, want = drives.begin(1), drives.begin(1).feed(np.array([[5, 6, 7, 8, 9, 10, 11, 12, 13]]))
    generation.feed(np.array([[5, 6, 7, 8, 9, 10]]))
    new = np.array([[11, 12, 13]])
    with pytest.raises(InputError, match=rf"attention_mask is \[1, {length}\], and the state needs \[1, 9\]"):
        generation.feed(new, np.ones((1, length), np.int64))
    assert generation.length == 6
    np.testing.assert_allclose(generation.feed(new, np.ones((1, 9), np.int64)), want[:, 6:], atol=1e-4)


def test_a_prompt_needs_a_token_and_ends_with_one() -> None:
    drives, plain = eager("llama"), Settings(max_new_tokens=2)
    for shape in ((1, 0), (0, 3)):
        with pytest.raises(InputError, match="there is no token"):
            next(next_tokens(drives, np.zeros(shape, np.int64), plain))
    with pytest.raises(InputError, match="pad on the left"):
        next(next_tokens(drives, np.array([[5, 0]]), plain, np.array([[1, 0]])))


def test_a_workload_is_cut_to_the_model_unless_it_was_stated() -> None:
    assert workload_of(None, None)[0] == {"batch": 1, "sequence": 128, "new": 32}
    assert all(found["sequence"] + found["new"] <= 62 for found in workload_of(None, 64))
    assert workload_of([(2, 7)], 64)[0]["new"] == 32
    for shapes in ([(1, 60, 60)], [(1, 2, 3, 4)], [{"rows": 1}]):
        with pytest.raises(OptionError):
            workload_of(shapes, 64)


# Verification.


@pytest.mark.parametrize("kind", ["mistral", "opt"])
def test_dialogues_pass_eager_and_find_what_is_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("DIALOGUE_SECONDS", "_WINDOW_SECONDS"):
        monkeypatch.setattr(dialogues_module, patience, 300.0)  # however busy the machine is
    module = decoder(kind)
    dialogues = drawn_dialogues(module, described(kind))
    assert dialogues[-1].name == "eager's greedy text, 64 tokens"
    assert ("beyond the sliding window" in [item.name for item in dialogues]) is (kind == "mistral")
    nothing = Fidelity(precision="fp32", tolerance=1e-3, results=())
    right = with_dialogues(nothing, eager(kind), dialogues)
    assert right.passed and len(right.results) == len(dialogues), right.worst

    found = with_dialogues(nothing, Decoder(eager_decoder(kind), _without_padding), dialogues)
    assert not found.passed
    assert "padding" in found.results[-1].case


def _without_padding(state: Any) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """A backend that ignores padding."""
    run = manager().binder(state)
    return lambda inputs: run({**inputs, "attention_mask": np.ones_like(inputs["attention_mask"])})


# What no backend keeps.


def test_a_model_with_a_cache_of_its_own_generates_where_it_runs_eagerly(tmp_path: Path) -> None:
    module, ids = decoder("minimax"), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    fast = accelerate(module, target="torch", cache_dir=tmp_path, budget=1)
    asked: dict[str, Any] = {
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 12,
        "num_beams": 3,
        "pad_token_id": 0,
    }
    assert fast.can_generate()
    assert torch.equal(fast.generate(ids, **asked), module.generate(ids, **asked))
    fast.generation_config.max_new_tokens = 2
    assert fast.generate(ids).shape[1] == ids.shape[1] + 2
    with pytest.raises(UnavailableError, match="pass torch tensors"):
        fast.generate("a text")
    with pytest.raises(OptionError, match="it ends texts"):
        fast.generate(ids, stop=["."])
    assert fast.report is not None
    (note,) = (note for note in fast.report.notes if "generates" in note)
    assert "generates only where it runs eagerly: it does not run with a cache filled by hand" in note


def test_what_a_state_cannot_do_is_refused_with_what_to_do(tmp_path: Path) -> None:
    module, ids = decoder("mamba"), torch.tensor([[5, 6, 7, 8]])
    fast = accelerate(module, target="torch", cache_dir=tmp_path, budget=1)
    first = fast(ids)
    assert first.cache_params.get_seq_length() == 4 and not first.cache_params.is_croppable
    again = fast(ids[:, :2], cache_params=first.cache_params)
    whole = module(torch.cat([ids, ids[:, :2]], 1)).logits[:, 4:]
    assert torch.allclose(again.logits, whole, atol=1e-3)
    for asked in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": decoder("llama")}):
        with pytest.raises(UnavailableError, match=r"taken back from its state(.|\n)*generate without"):
            fast.generate(ids, **asked, max_new_tokens=4)
    with pytest.raises(ValueError, match="stated as a negative one"):
        first.cache_params.crop(2)
    with pytest.raises(UnavailableError, match="cache_implementation='quantized'"):
        fast.generate(ids, cache_implementation="quantized", max_new_tokens=4)
    with pytest.raises(AttributeError, match="pass all texts to one generate"):
        _ = fast.generate_batch


def test_blip_goes_by_the_ids_of_its_text_model(tmp_path: Path) -> None:
    config = {"model_type": "blip", "text_config": {"sep_token_id": 7}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    found = read_settings(tmp_path, {})
    assert (found.start, found.eos, found.pad) == (30522, (7,), 0)
