"""`generate` of an accelerated decoder: ids of any width, and what is beyond its positions is refused before a step."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from optimum_core import AcceleratedModel, accelerate
from optimum_core.errors import InputError
from optimum_core.generation.decoder_session import Generation
from optimum_core.testing.decoders import decoder

_IDS = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
_MASK = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AcceleratedModel]:
    """GPT-2, whose table has 256 positions."""
    with accelerate(decoder("gpt2"), target="ort", budget=0, cache_dir=tmp_path_factory.mktemp("cache")) as made:
        yield made


@pytest.mark.parametrize("kind", [torch.int32, torch.int64])
@pytest.mark.parametrize("beams", [1, 2])
def test_ids_of_32_bits_are_taken_as_eager_takes_them(kind: torch.dtype, beams: int, fast: AcceleratedModel) -> None:
    asked: dict[str, Any] = {"attention_mask": _MASK.to(kind), "max_new_tokens": 4, "num_beams": beams}
    want = decoder("gpt2").generate(_IDS.to(kind), **asked)
    found = fast.generate(_IDS.to(kind), **asked)
    assert torch.equal(found, want) and found.dtype == want.dtype


@pytest.mark.parametrize("form", [lambda ids: ids, lambda ids: ids.int(), lambda ids: ids.numpy()])
@pytest.mark.parametrize("asked", [{"max_new_tokens": 254}, {"max_length": 258}])
def test_more_tokens_than_positions_are_refused_before_the_first_step(
    form: Any, asked: dict[str, Any], fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: Any) -> Any:
        raise AssertionError("a step was made")

    monkeypatch.setattr(Generation, "feed", unread)
    with pytest.raises(InputError, match="257 positions, and the model has 256"):
        fast.generate(form(_IDS[:1]), **asked)


def test_the_last_token_needs_no_position_and_padding_none(fast: AcceleratedModel) -> None:
    assert fast.generate(_IDS[:1].numpy(), max_new_tokens=253).shape == (1, 257)
    assert fast.generate(_IDS[1:], attention_mask=_MASK[1:], max_new_tokens=255).shape == (1, 259)


def test_a_number_that_the_model_states_is_an_upper_bound(fast: AcceleratedModel) -> None:
    fast.generation_config.max_new_tokens = 500
    try:
        first = int(fast.generate(_IDS[:1], max_new_tokens=1)[0, -1])
        assert fast.generate(_IDS[:1], eos_token_id=first).shape == (1, 5)
    finally:
        fast.generation_config.max_new_tokens = None


@pytest.mark.parametrize("length", [3, 7])
def test_a_mask_of_another_length_is_named(length: int, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=rf"attention_mask is \[2, {length}\], and input_ids \[2, 4\]"):
        fast.generate(_IDS, attention_mask=torch.ones(2, length, dtype=torch.long), max_new_tokens=2)
    with pytest.raises(InputError, match=rf"attention_mask is \[2, {length}\], and input_ids \[2, 4\]"):
        fast.generate(_IDS, attention_mask=[[1] * length] * 2, max_new_tokens=2)
    with pytest.raises(InputError, match=rf"attention_mask is \[2, {length}\]"):
        fast.generate(_IDS.numpy(), attention_mask=np.ones((2, length), np.int64), max_new_tokens=2)


def test_arrays_without_a_mask_and_a_number_are_read_as_transformers_reads_them(fast: AcceleratedModel) -> None:
    """Padding is left out, and a text of the usual length ends with the positions."""
    want = decoder("gpt2").generate(_IDS, max_new_tokens=6, do_sample=False)
    assert np.array_equal(fast.generate(_IDS.numpy(), max_new_tokens=6), want)
    alone = decoder("gpt2").generate(_IDS[1:, 2:], max_new_tokens=6, do_sample=False)
    assert want[1, 4:].tolist() == alone[0, 2:].tolist()
    long = _IDS[:1].repeat(1, 63)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the default length
        want = decoder("gpt2").generate(long, do_sample=False, eos_token_id=98)
    found = fast.generate(long.numpy(), eos_token_id=98)
    assert np.array_equal(found, want) and found.shape == (1, 256)
