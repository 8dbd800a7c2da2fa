"""Log probabilities of tokens, and prompts in ids: what OpenAI's client gets is what the eager model gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from optimum_core import load
from optimum_core.errors import InputError
from optimum_core.types import PreparedChat, ScoredPiece, TokenIds

GIVEN: dict[str, Any] = {"model": "writer", "temperature": 0, "max_tokens": 9}
#: The ids of "a" and "b": letters in order, from "!" on.
AB = [64, 65]
CHAT: Any = [{"role": "user", "content": "ab"}]


@pytest.fixture
def client(live: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def written(artifacts: Path) -> list[ScoredPiece]:
    """The pieces behind "ab", each with its five likeliest tokens."""
    with load(artifacts / "writer") as model:
        pieces = model.generate("ab", stream=True, logprobs=5, max_new_tokens=9, do_sample=False)
        return [piece for piece in pieces if isinstance(piece, ScoredPiece)]


def test_they_are_those_of_the_eager_model(artifacts: Path, written: list[ScoredPiece]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(artifacts / "sources" / "writer").eval()
    ids = [*AB, *(piece.scored.token for piece in written)]
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    for place, piece in enumerate(written, 1):
        values, tokens = logs[place].topk(5)
        assert piece.scored.token == piece.likeliest[0].token
        assert [token.token for token in piece.likeliest] == tokens.tolist()
        assert [token.logprob for token in piece.likeliest] == pytest.approx(values.tolist(), abs=1e-4)


def test_the_bytes_of_the_tokens_are_the_text(written: list[ScoredPiece], client: openai.OpenAI) -> None:
    data = b"".join(piece.scored.data or b"" for piece in written)
    assert data.decode(errors="replace") == client.completions.create(prompt="ab", **GIVEN).choices[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_completions_have_them(stream: bool, client: openai.OpenAI, written: list[ScoredPiece]) -> None:
    answer: Any = client.completions.create(prompt="ab", logprobs=5, stream=stream, **GIVEN)
    found = [piece.choices[0].logprobs for piece in answer] if stream else [answer.choices[0].logprobs]
    found = [one for one in found if one is not None]
    tokens = [token for one in found for token in one.tokens]
    assert [number for one in found for number in one.token_logprobs] == pytest.approx(
        [piece.scored.logprob for piece in written], abs=1e-5
    )
    offsets = [offset for one in found for offset in one.text_offset]
    assert offsets == [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    assert all(
        len(top) == 5 and token in top for one in found for token, top in zip(one.tokens, one.top_logprobs, strict=True)
    )


def test_of_one_token_alone_there_are_no_others(client: openai.OpenAI) -> None:
    found = client.completions.create(prompt="ab", logprobs=0, **GIVEN).choices[0].logprobs
    assert found is not None and found.token_logprobs and found.top_logprobs is None


@pytest.mark.parametrize("stream", [False, True])
def test_chats_have_them(stream: bool, client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(messages=CHAT, logprobs=True, top_logprobs=3, stream=stream, **GIVEN)
    found = [piece.choices[0].logprobs for piece in answer] if stream else [answer.choices[0].logprobs]
    entries = [entry for one in found if one is not None for entry in one.content]
    assert len(entries) == 9
    assert all(entry.top_logprobs[0].logprob == entry.logprob for entry in entries)
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    plain = client.chat.completions.create(messages=CHAT, **GIVEN).choices[0].message.content
    assert bytes(byte for entry in entries for byte in entry.bytes).decode(errors="replace") == plain
    short = client.chat.completions.create(messages=CHAT, logprobs=True, **GIVEN).choices[0].logprobs
    assert short is not None and short.content is not None and short.content[0].top_logprobs == []


def test_a_draw_is_scored_as_the_model_gives_it(client: openai.OpenAI) -> None:
    """Temperature and penalties are not in it."""
    drawn: dict[str, Any] = {**GIVEN, "temperature": 3, "seed": 5, "max_tokens": 1}
    hot = client.completions.create(prompt="ab", logprobs=20, **drawn).choices[0].logprobs
    cold = client.completions.create(prompt="ab", logprobs=20, **GIVEN).choices[0].logprobs
    assert hot is not None and cold is not None and hot.top_logprobs and cold.top_logprobs
    shared = set(hot.top_logprobs[0]) & set(cold.top_logprobs[0])
    assert len(shared) == 20
    assert all(hot.top_logprobs[0][token] == pytest.approx(cold.top_logprobs[0][token]) for token in shared)


@pytest.mark.parametrize("asked", [{"logprobs": True, "top_logprobs": 21}, {"top_logprobs": 3}, {"logprobs": 4}])
def test_numbers_without_sense_are_refused(asked: dict[str, Any], live: Any) -> None:
    answer = live.client.post("/v1/chat/completions", json={"model": "writer", "messages": CHAT, **asked})
    assert answer.status_code == 400 and "logprobs" in answer.json()["error"]["message"]
    for count in (-1, 21):
        refused = live.client.post("/v1/completions", json={"model": "writer", "prompt": "ab", "logprobs": count})
        assert refused.status_code == 400 and "0 to 20" in refused.json()["error"]["message"]


def test_ids_are_taken_as_prompts(client: openai.OpenAI, artifacts: Path) -> None:
    abc = [*AB, AB[1] + 1]
    text = client.completions.create(prompt="ab", **GIVEN)
    one = client.completions.create(prompt=AB, **GIVEN)
    assert one.choices[0].text == text.choices[0].text and one.usage == text.usage
    both = client.completions.create(prompt=[abc, AB], **GIVEN)
    assert both.choices[1].text == text.choices[0].text
    assert both.choices[0].text == client.completions.create(prompt="abc", **GIVEN).choices[0].text
    with load(artifacts / "writer") as model:
        given: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False}
        assert model.generate(TokenIds(AB), **given) == text.choices[0].text
        assert model.generate([TokenIds(AB), "abc"], **given) == [choice.text for choice in both.choices[::-1]]
        for prompt in (PreparedChat(inputs={}), [PreparedChat(inputs={})]):
            with pytest.raises(InputError, match="no pictures"):
                model.generate(prompt, **given)
    with pytest.raises(TypeError, match="integer"):
        TokenIds([64.5])  # type: ignore[list-item]


@pytest.mark.parametrize(("prompt", "said"), [([64, 258], "257"), ([64] * 128, "128"), ([[]], "empty"), ([], "empty")])
def test_ids_that_the_model_does_not_have_are_refused(prompt: Any, said: str, client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=said):
            client.completions.create(prompt=prompt, model="writer", stream=stream)
