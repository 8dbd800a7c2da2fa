"""States that began apart go on in one call, and texts written together are those of the decoder alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optimum_core.errors import UnavailableError
from optimum_core.generation.continuous import difference
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.settings import Settings
from optimum_core.generation.state_batch import StateBatch
from optimum_core.hardware import detect
from optimum_core.plugins import manager
from optimum_core.types import Artifact, ContinuousLimits, SessionRequest

#: A sliding window, a table of positions, biases by distance, and plain rotary positions.
KINDS = ["llama", "gemma2", "opt", "falcon"]
VOCABULARY = 99


@pytest.fixture(scope="module")
def opened(exported: Callable[..., Artifact]) -> Callable[..., Decoder]:
    """Opens a decoder."""

    def open_kind(kind: str, precision: str = "fp32") -> Decoder:
        made = exported(kind, "openvino-ir", route="module")
        asked = SessionRequest(
            backend="openvino", artifact=made, device="cpu", hardware=detect(), precision=precision, threads=1
        )
        session: Any = manager().load_session(asked)
        return Decoder(session, manager().binder)

    return open_kind


def _prompts(*lengths: int) -> list[list[int]]:
    return [np.random.default_rng(length).integers(3, VOCABULARY, length).tolist() for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_several_states_go_on_in_one(kind: str, opened: Callable[..., Decoder]) -> None:
    decoder = opened(kind)
    session: Any = decoder.session
    prompts = _prompts(3, 24, 9)
    apart = [decoder.begin(1) for _ in prompts]
    want = []
    for one, prompt in zip(apart, prompts, strict=True):
        want.append(decoder.begin(1).feed(np.array([[*prompt, 7]]), None, "counts", "last")[0])
        one.feed(np.array([prompt]), None, "counts")
    joined = decoder.joined([(one, 0) for one in apart], session.join)
    assert joined.length == 24 and joined.rows == 3
    np.testing.assert_allclose(joined.feed(np.full((3, 1), 7), None, "counts", "last"), want, atol=1e-3)
    joined.reorder([2, 0])  # which the next call does, or the next join
    again = decoder.joined([(joined, 0), (apart[0], 0)], session.join)
    assert again.length == 10
    more = again.feed(np.array([[5], [7]]), None, "counts", "last")
    longer = decoder.begin(1).feed(np.array([[*prompts[2], 7, 5]]), None, "counts", "last")[0]
    np.testing.assert_allclose(more, [longer, want[0]], atol=1e-3)
    np.testing.assert_allclose(apart[1].feed(np.array([[7]]), None, "counts", "last")[0], want[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_written_together_are_those_of_the_decoder_alone(kind: str, opened: Callable[..., Decoder]) -> None:
    decoder = opened(kind)
    batch = StateBatch(decoder, ContinuousLimits(rows=3, tokens=16))
    prompts, news = _prompts(1, 40, 5, 17, 2), [20, 9, 1, 25, 12]
    asked = [Settings(max_new_tokens=new, do_sample=new == 12, seed=new) for new in news]
    numbers = [batch.add(prompt, stated) for prompt, stated in zip(prompts, asked, strict=True)]
    tokens: dict[int, list[int]] = {number: [] for number in numbers}
    while stepped := batch.step():
        for number, progress in stepped.items():
            tokens[number] += progress.tokens
    for number, prompt, stated in zip(numbers, prompts, asked, strict=True):
        assert tokens[number] == [int(token[0]) for token in next_tokens(decoder, np.array([prompt]), stated)]
    assert difference(batch, decoder, VOCABULARY, 0.02) == ""


def test_states_of_a_fixed_size_are_not_joined(opened: Callable[..., Decoder]) -> None:
    session: Any = opened("mamba").session
    with pytest.raises(UnavailableError, match="fixed size"):
        session.join([])
    with pytest.raises(UnavailableError, match="does not join"):
        StateBatch(opened("mamba"), ContinuousLimits())
