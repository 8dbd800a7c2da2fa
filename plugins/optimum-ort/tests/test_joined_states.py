"""States that began apart go on in one call, and texts written together are those of the decoder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import InputError, SessionError, UnavailableError
from optimum_core.generation.continuous import compared_batch, difference
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.settings import Settings
from optimum_core.generation.state_batch import StateBatch
from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Artifact, ContinuousLimits, Progress, Sampling, SessionRequest

Exported = Callable[..., Artifact]
#: A sliding window, a table of positions, biases by distance, and plain rotary positions.
KINDS = ["llama", "gemma2", "opt", "falcon"]
VOCABULARY = 99


@pytest.fixture(scope="module", params=["copied", "shared"])
def opened(request: Any, exported: Exported, shared_cache: Exported) -> Callable[[str], Decoder]:
    """Opens a decoder whose cache is copied in every call, or shared."""

    def open_kind(kind: str) -> Decoder:
        artifact = shared_cache(kind) if request.param == "shared" else exported(kind, "onnx")
        asked = SessionRequest(backend="ort", artifact=artifact, device="cpu", hardware=detect(), threads=1)
        session: Any = manager().load_session(asked)
        return Decoder(session, manager().binder)

    return open_kind


def _prompts(*lengths: int) -> list[list[int]]:
    return [
        np.random.default_rng(length).integers(3, VOCABULARY, length).tolist() for length in lengths
    ]  # not the ids that end or pad


def _alone(decoder: Decoder, ids: list[int], new: int, eos: tuple[int, ...] = ()) -> list[int]:
    settings = Settings(max_new_tokens=new, eos=eos)
    return [int(tokens[0]) for tokens in next_tokens(decoder, np.array([ids]), settings)]


def _written(batch: StateBatch, numbers: list[int], found: Mapping[int, Progress] | None = None) -> list[list[int]]:
    """Write until all texts have ended; `found` came before."""
    tokens = {number: list(found[number].tokens) if found and number in found else [] for number in numbers}
    ended = {number for number in numbers if found and number in found and found[number].ended}
    while ended != set(numbers):
        stepped = batch.step()
        assert stepped
        for number, progress in stepped.items():
            tokens[number] += progress.tokens
            ended |= {number} if progress.ended else set()
    return [tokens[number] for number in numbers]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_several_states_go_on_in_one(kind: str, opened: Callable[[str], Decoder]) -> None:
    decoder = opened(kind)
    session: Any = decoder.session
    prompts = _prompts(3, 24, 9)
    last = [np.array([prompt[-1:]]) for prompt in prompts]
    want = []
    apart = []
    for prompt, token in zip(prompts, last, strict=True):
        want.append(decoder.begin(1).feed(np.array([[*prompt, *token[0]]]), None, "counts", "last")[0])
        apart.append(decoder.begin(1))
        apart[-1].feed(np.array([prompt]), None, "counts")
    joined = decoder.joined([(one, 0) for one in apart], session.join)
    assert joined.length == 24 and joined.rows == 3
    found = joined.feed(np.concatenate(last), None, "counts", "last")
    np.testing.assert_allclose(found, want, atol=1e-3)
    again = decoder.joined([(joined, 2), (apart[0], 0)], session.join)  # padding goes with the row that needed it
    assert again.length == 10
    more = np.array([[7], prompts[0][-1:]])
    np.testing.assert_allclose(again.feed(more, None, "counts", "last")[1], want[0], atol=1e-3)
    np.testing.assert_allclose(apart[1].feed(last[1], None, "counts", "last")[0], want[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_written_together_are_those_of_the_decoder_alone(kind: str, opened: Callable[[str], Decoder]) -> None:
    decoder = opened(kind)
    batch = StateBatch(decoder, ContinuousLimits(rows=4, tokens=16))
    prompts, news = _prompts(1, 40, 5, 17, 30, 2), [20, 9, 1, 25, 4, 12]  # more than rows, and longer than one step
    first = [batch.add(prompt, Sampling(max_new_tokens=new)) for prompt, new in zip(prompts[:2], news[:2], strict=True)]
    found = batch.step()
    later = [batch.add(prompt, Sampling(max_new_tokens=new)) for prompt, new in zip(prompts[2:], news[2:], strict=True)]
    want = [_alone(decoder, prompt, new) for prompt, new in zip(prompts, news, strict=True)]
    assert _written(batch, [*first, *later], found) == want
    assert not batch.step() and batch._generation is None
    assert difference(batch, decoder, VOCABULARY, 0.02) == ""


def test_ends_penalties_and_cancels_are_of_each_row(opened: Callable[[str], Decoder]) -> None:
    decoder = opened("llama")
    prompts = _prompts(4, 12, 8)
    whole = _alone(decoder, prompts[0], 30)
    settings = Settings(max_new_tokens=15, repetition_penalty=1.5)
    penalized = [int(token[0]) for token in next_tokens(decoder, np.array([prompts[1]]), settings)]
    batch = StateBatch(decoder, ContinuousLimits())
    ending = batch.add(prompts[0], Sampling(max_new_tokens=30, eos=(whole[5],)))
    other = batch.add(prompts[1], Sampling(max_new_tokens=15, repetition_penalty=1.5))
    gone = batch.add(prompts[2], Sampling(max_new_tokens=30))
    found = batch.step()
    batch.cancel(gone)
    end = whole.index(whole[5]) + 1
    assert _written(batch, [ending, other], found) == [whole[:end], penalized]
    assert not batch.step() and batch._generation is None


def test_memory_bounds_what_runs_at_once(opened: Callable[[str], Decoder]) -> None:
    decoder = opened("llama")
    session: Any = decoder.session
    cache = 60 * 4 * session.state.values_of_a_position
    batch = StateBatch(decoder, ContinuousLimits(cache=cache))
    assert batch.positions == 60
    numbers = [batch.add(prompt, Sampling(max_new_tokens=10)) for prompt in _prompts(10, 20, 10)]
    stepped = [set(batch.step()) for _ in range(11)]
    # At its end, the second one has 30 positions: three such rows do not fit, and the third waits for both to end.
    assert stepped == [set(numbers[:2])] * 9 + [set(numbers), {numbers[2]}]
    with pytest.raises(InputError, match="60 positions"):
        batch.add([5], Sampling(max_new_tokens=60))
    batch.cancel(numbers[-1])
    batch.close()


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_rows_that_outgrow_memory_wait_and_go_on_where_they_were(
    kind: str, opened: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are admitted by what they take soon, not by what they may take at their end."""
    monkeypatch.setattr("optimum_core.generation.state_batch._AHEAD", 2)
    decoder = opened(kind)
    session: Any = decoder.session
    positions = 50
    cache = positions * 4 * session.state.values_of_a_position
    batch = StateBatch(decoder, ContinuousLimits(cache=cache, tokens=16))
    prompts = _prompts(10, 12, 9)
    settings = [Settings(max_new_tokens=20, do_sample=True, seed=number) for number in range(3)]
    numbers = [batch.add(prompt, stated) for prompt, stated in zip(prompts, settings, strict=True)]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    together = []
    while stepped := batch.step():
        for number, progress in stepped.items():
            tokens[number] += progress.tokens
        together.append(set(stepped))
        if batch._generation is not None:
            assert batch._generation.rows * batch._generation.length <= positions
    assert set(numbers) in together and set(numbers[:2]) in together[together.index(set(numbers)) :]
    for number, prompt, stated in zip(numbers, prompts, settings, strict=True):
        assert tokens[number] == [int(token[0]) for token in next_tokens(decoder, np.array([prompt]), stated)]


def test_all_settings_of_a_text_are_honoured_as_alone(opened: Callable[[str], Decoder]) -> None:
    decoder = opened("llama")
    prompts = _prompts(6, 11, 4, 9, 7, 5)
    likeliest = _alone(decoder, prompts[3], 12)
    settings = [
        Settings(max_new_tokens=12, do_sample=True, seed=7, temperature=1.5),
        Settings(max_new_tokens=12, do_sample=True, seed=8, min_p=0.05),
        Settings(max_new_tokens=12, no_repeat_ngram_size=2, bad_words_ids=((likeliest[0],),)),
        Settings(max_new_tokens=12, suppress_tokens=(likeliest[2],), begin_suppress_tokens=(likeliest[0],)),
        Settings(max_new_tokens=12, eos=(5,), min_new_tokens=4, forced_eos=(5,)),
        Settings(max_new_tokens=12, presence_penalty=1, frequency_penalty=0.5, logit_bias=((5, 1.0),)),
    ]
    batch = StateBatch(decoder, ContinuousLimits())
    numbers = [batch.add(prompt, stated) for prompt, stated in zip(prompts, settings, strict=True)]
    want = [
        [int(token[0]) for token in next_tokens(decoder, np.array([prompt]), stated)]
        for prompt, stated in zip(prompts, settings, strict=True)
    ]
    assert _written(batch, numbers) == want
    assert want[3][0] != likeliest[0] and want[4][-1] == 5


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("leaves", [False, True])
def test_a_text_that_has_ended_goes_no_further_than_the_model(
    kind: str, leaves: bool, opened: Callable[[str], Decoder]
) -> None:
    """It stays in the call of the others until it leaves, and may not be written on beyond the last position."""
    decoder = opened(kind)
    decoder.longest = 40
    prompts, news = _prompts(30, 3, 5), [11, 25, 25]
    batch = StateBatch(decoder, ContinuousLimits())
    numbers = [batch.add(prompt, Sampling(max_new_tokens=new)) for prompt, new in zip(prompts, news, strict=True)]
    found = dict(batch.step())
    if leaves:
        batch.cancel(numbers[0])
    else:
        numbers.pop(0)
    others = numbers[-2:]
    want = [_alone(decoder, prompt, new) for prompt, new in zip(prompts[1:], news[1:], strict=True)]
    written: dict[int, list[int]] = {number: list(found[number].tokens) for number in others}
    for _ in range(24):
        for number, progress in batch.step().items():
            written.setdefault(number, []).extend(progress.tokens)
    assert [written[number] for number in others] == want
    assert not batch.step()


def test_a_batch_that_failed_writes_nothing_more(
    opened: Callable[[str], Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens of the step that failed are lost: what came behind them would be another text."""
    batch = StateBatch(opened("llama"), ContinuousLimits())
    for prompt in _prompts(4, 9):
        batch.add(prompt, Sampling(max_new_tokens=5))

    def full(_rows: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(batch, "_join", full)
    with pytest.raises(MemoryError):
        batch.step()
    assert batch._generation is None and not batch._rows
    with pytest.raises(SessionError, match="closed"):
        batch.step()
    with pytest.raises(SessionError, match="closed"):
        batch.add([5], Sampling(max_new_tokens=5))


@pytest.mark.parametrize(("positions", "longest"), [(13, None), (24, None), (10**4, 13), (10**4, 24)])
def test_the_comparison_fits_into_memory_and_model(
    positions: int, longest: int | None, opened: Callable[[str], Decoder]
) -> None:
    decoder = opened("llama")
    decoder.longest = longest
    session: Any = decoder.session
    limits = ContinuousLimits(cache=4 * positions * session.state.values_of_a_position)
    batch = compared_batch("model 'x'", decoder, limits, VOCABULARY, 0.02)
    assert batch.positions == positions
    few = ContinuousLimits(cache=4 * 12 * session.state.values_of_a_position)
    with pytest.raises(UnavailableError, match="12 positions, too few"):
        compared_batch("model 'x'", decoder, few, VOCABULARY, 0.02)


def test_states_of_a_fixed_size_are_not_joined(exported: Exported) -> None:
    artifact = exported("mamba", "onnx", route="torchscript")
    asked = SessionRequest(backend="ort", artifact=artifact, device="cpu", hardware=detect(), threads=1)
    session: Any = manager().load_session(asked)
    with pytest.raises(UnavailableError, match="does not join"):
        StateBatch(Decoder(session, manager().binder), ContinuousLimits())
    with pytest.raises(UnavailableError, match="fixed size"):
        session.join([])
