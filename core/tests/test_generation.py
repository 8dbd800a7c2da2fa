"""Generation without torch: settings, the choice of tokens, text as it comes, and the loop beside eager's."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
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

from optimum_core import accelerate
from optimum_core.errors import InputError, OptionError, UnavailableError
from optimum_core.generation import generator_workload
from optimum_core.generation.decoder_session import Decoder, Generation, counted
from optimum_core.generation.generator_workload import timed_call, workload_of
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.model_session import GenerativeSession
from optimum_core.generation.sampling import chooser, drawn, penalized, shaped
from optimum_core.generation.settings import HONOURED, Settings, read_settings
from optimum_core.generation.text import TextCodec, TextStream, generate_texts, read_codec, stream_texts
from optimum_core.generation.unsupported import INERT, NEUTRAL, RESULT
from optimum_core.plugins import manager
from optimum_core.testing.decoders import decoder, described, eager_decoder
from optimum_core.types import Fidelity
from optimum_core.verify import dialogues as dialogues_module
from optimum_core.verify.dialogues import drawn_dialogues, with_dialogues


def eager(kind: str) -> Decoder:
    return Decoder(eager_decoder(kind), manager().binder)


# Settings.


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
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        read_settings(tmp_path, given)


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
    assert [found.for_prompt(length).min_new_tokens for length in (1, 11)] == [7, 2]
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


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    scores = np.log(np.tile(np.array([[0.1, 0.0, 0.6, 0.3]]) + 1e-30, (4000, 1)))
    found = drawn(scores, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(found, minlength=4) / 4000, [0.1, 0.0, 0.6, 0.3], atol=0.03)
    chosen = Settings(do_sample=True, seed=3)
    assert (chooser(chosen)(found[:0], scores) == chooser(chosen)(found[:0], scores)).all()


def test_positions_are_counted_by_the_mask() -> None:
    assert counted(np.array([[0, 0, 1, 1], [1, 1, 1, 1]]), 3).tolist() == [[0, 0, 1], [1, 2, 3]]


# The loop.


@pytest.mark.parametrize(
    "stated",
    [
        {"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 0.8},
        {"bad_words_ids": "seen"}, {"max_length": 15}, {"max_length": 30, "max_new_tokens": 4}, {},
        {"min_length": 15, "eos_token_id": "seen"}, {"min_new_tokens": 6, "eos_token_id": "seen"},
        {"max_length": 18, "min_length": 18, "eos_token_id": "seen", "forced_eos_token_id": 3},
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
    drives = eager("llama")
    feed = Generation.feed

    def slow(self: Generation, ids: Any, *rest: Any) -> Any:
        read.append(ids.shape[1])
        time.sleep(0.02)
        return feed(self, ids, *rest)

    monkeypatch.setattr(Generation, "feed", slow)
    session = GenerativeSession(drives, (), ())
    inputs = {"input_ids": np.random.default_rng(1).integers(3, 99, (2, 9))}
    whole = timed_call(session, inputs, 40)()
    assert len(read) == 40 or whole.scale > 1
    read.clear()
    monkeypatch.setattr(generator_workload, "_ENOUGH_SECONDS", 0.05)
    part = timed_call(session, inputs, 40)()
    assert read == [9, *[1] * 7]
    assert 40 / 8 * 0.6 < part.scale < 40 / 8 * 1.4


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
    monkeypatch.setattr(dialogues_module, "PATIENCE", 300.0)  # however busy the machine is
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


# Texts.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer of 256 tokens and two special ones, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    made = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(made / "tokenizer.json"))
    template = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}{% endfor %}[you]"
    config = {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>"}, "chat_template": template}
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    return made


def streamed(codec: TextCodec, text: str, *stops: str) -> tuple[list[str], TextStream]:
    stream = TextStream(codec=codec, stops=stops)
    pieces = []
    for token in codec.tokenizer.encode(text).ids:
        pieces.append(stream.put(token))
        if stream.ended:
            break
    return [*pieces, stream.finish()], stream


def test_text_comes_in_whole_characters(folder: Path) -> None:
    codec = read_codec(folder, "model")
    pieces, _ = streamed(codec, "naïve 猫!")
    assert "".join(pieces) == "naïve 猫!"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces  # the first byte of two or three


def test_stop_strings_are_not_shown_even_in_part(folder: Path) -> None:
    codec = read_codec(folder, "model")
    pieces, stream = streamed(codec, "one END two", "END", "never")
    assert ("".join(pieces), stream.ended) == ("one ", True)
    pieces, stream = streamed(codec, "one EN", "END")
    assert ("".join(pieces), stream.ended) == ("one EN", False)  # held back, then shown at the end


def test_a_chat_goes_through_the_template(folder: Path) -> None:
    codec = read_codec(folder, "model")
    chat = [{"role": "user", "content": " hi "}]
    assert codec.render(chat) == "<s>[user]hi[you]"
    ids, mask = codec.encode([chat, "abc"], pad=0)
    assert ids.shape == mask.shape and mask.sum(1).tolist() == [len(ids[0]), 3]
    assert codec.decode(ids[0]) == "[user]hi[you]"
    with pytest.raises(UnavailableError, match="no chat template"):
        TextCodec(who="model", tokenizer=codec.tokenizer).encode([chat], 0)
    with pytest.raises(InputError, match="empty"):
        codec.encode([""], 0)


def test_the_template_is_rendered_as_transformers_does(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What?"}]
    want = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert read_codec(folder, "model").render(chat) == want


def test_rows_of_a_batch_end_by_themselves(folder: Path) -> None:
    """At a stop string, and the others go on; together, as one by one."""
    codec, drives = read_codec(folder, "model"), eager("llama")
    vocabulary = {token: index for token, index in codec.tokenizer.get_vocab().items() if index < 99}
    prompts = ["".join(sorted(vocabulary)[10:16]), "".join(sorted(vocabulary)[20:23])]
    chosen = Settings(max_new_tokens=12)
    whole = generate_texts(drives, codec, prompts, chosen)
    assert whole == [generate_texts(drives, codec, [prompt], chosen)[0] for prompt in prompts]
    stop = whole[0][4:6]
    stopped = generate_texts(drives, codec, prompts, chosen, [stop])
    assert stopped[0] == whole[0][: whole[0].find(stop)]
    pieces = list(stream_texts(drives, codec, prompts, chosen, [stop]))
    assert ["".join(row) for row in zip(*pieces, strict=True)] == stopped


# What no backend keeps.


def test_a_recurrent_model_that_runs_eagerly_generates(tmp_path: Path) -> None:
    module, ids = decoder("mamba"), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
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


def test_blip_goes_by_the_ids_of_its_text_model(tmp_path: Path) -> None:
    config = {"model_type": "blip", "text_config": {"sep_token_id": 7}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    found = read_settings(tmp_path, {})
    assert (found.start, found.eos, found.pad) == (30522, (7,), 0)
