"""Log probabilities of tokens, and the bytes of single tokens."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from optimum_core.generation.scores import Scoring, likeliest, log_softmax, token_bytes
from optimum_core.types import LastPiece, ScoredPiece, ScoredToken


def _sentencepiece() -> Any:
    words = ["<unk>", "▁hello", "▁world", "lo", "<0xE2>", "<0x82>", "<0xAC>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    blank, start = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    made.decoder = decoders.Sequence([blank, decoders.ByteFallback(), decoders.Fuse(), start])
    return made


def _letters() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def test_tokens_of_sentencepiece_have_their_blanks_and_bytes() -> None:
    found = [token_bytes(_sentencepiece(), token) for token in range(1, 8)]
    assert found == [b" hello", b" world", b"lo", b"\xe2", b"\x82", b"\xac", None]


@pytest.mark.parametrize("text", ["a b", "Grüße 你好", "👩‍🚀 \n\t\x00"])
def test_the_bytes_of_tokens_are_those_of_the_text(text: str) -> None:
    tokenizer = _letters()
    found = [token_bytes(tokenizer, token) for token in tokenizer.encode(text).ids]
    assert b"".join(data or b"" for data in found) == text.encode()


def test_a_step_is_scored_as_torch_has_it() -> None:
    scores = np.random.default_rng(0).normal(scale=20, size=(2, 256)).astype(np.float32)
    scores[0, 5] = -np.inf
    want = torch.tensor(scores, dtype=torch.float64).log_softmax(-1)
    np.testing.assert_allclose(log_softmax(scores), want.numpy(), rtol=1e-12, atol=1e-14)
    scoring = Scoring(_letters(), 3)
    scoring.note(scores, np.array([7, 9]))
    piece = scoring.scored(1, "x")
    assert piece == "x" and piece.scored.token == 9 and piece.scored.logprob == pytest.approx(float(want[1, 9]))
    assert [token.token for token in piece.likeliest] == want[1].topk(3).indices.tolist()


def test_of_equal_scores_the_lower_id_comes_first() -> None:
    assert likeliest(np.array([[1.0, 3.0, 3.0, 2.0, 3.0]]), 4).tolist() == [[1, 2, 4, 3]]
    assert likeliest(np.array([[1.0, 3.0]]), 9).tolist() == [[1, 0]]
    assert likeliest(np.array([[1.0, 3.0]]), 0).shape == (1, 0)


def test_the_padding_of_a_row_that_has_ended_may_be_no_token() -> None:
    scoring = Scoring(_letters(), 1)
    scoring.note(np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), np.array([1, 7]))
    piece = scoring.scored(0, "b")
    assert (piece.scored.token, piece.likeliest[0].token) == (1, 0)
    assert (piece.scored.logprob, piece.likeliest[0].logprob) == pytest.approx((np.log(0.25), np.log(0.5)))


def test_pieces_pass_to_another_process() -> None:
    token = ScoredToken(token=5, data=b"x", logprob=-1.0)
    for piece in (ScoredPiece("x", scored=token, likeliest=(token,)), LastPiece("y", is_complete=True)):
        for again in (pickle.loads(pickle.dumps(piece)), copy.deepcopy(piece)):
            assert type(again) is type(piece) and again == piece and vars(again) == vars(piece)
