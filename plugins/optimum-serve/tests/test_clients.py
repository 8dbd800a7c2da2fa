"""Real clients get from the server what the model itself gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from optimum_core import AcceleratedModel, load
from optimum_serve import ModelSettings

TEXTS = ["w5 w9 w7", "w50", "w10 w11 w12 w13 w14"]


@pytest.fixture(scope="module")
def encoder(artifacts: Path) -> AcceleratedModel:
    return load(artifacts / "encoder")


@pytest.fixture
def client(live: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)


def test_openai_embeddings(client: openai.OpenAI, encoder: AcceleratedModel) -> None:
    answer = client.embeddings.create(model="encoder", input=TEXTS)
    np.testing.assert_allclose([item.embedding for item in answer.data], encoder.encode(TEXTS), atol=1e-5)
    assert answer.usage.prompt_tokens == sum(len(text.split()) + 2 for text in TEXTS)
    plain = client.embeddings.create(model="encoder", input=TEXTS[0], encoding_format="float", dimensions=8)
    cut = encoder.encode(TEXTS[0])[:8]
    np.testing.assert_allclose(plain.data[0].embedding, cut / np.linalg.norm(cut), atol=1e-5)
    ids = client.embeddings.create(model="encoder", input=[[2, 5, 9, 7, 3]])
    np.testing.assert_allclose(ids.data[0].embedding, encoder.encode(TEXTS[0]), atol=1e-5)
    for others in (
        [5, 9, 7],
        [2, 5, 9, 7],
        [5, 9, 7, 3],
    ):  # those of another tokenizer, or without what is around a text
        with pytest.raises(openai.BadRequestError, match=r"begin with \[2\] and end with \[3\]"):
            client.embeddings.create(model="encoder", input=[others])


def test_a_model_is_also_named_by_its_source(serve: Any, artifacts: Path) -> None:
    live = serve("encoder")
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model=str(artifacts / "encoder"), input="w5")
    assert answer.model == "encoder"
    live.stop()


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": None}, "has no content"),
        ({"role": "wizard", "content": "ab"}, "role"),
        ({"role": "assistant", "content": "ab", "tool_calls": [{"id": "1"}]}, "tool_calls"),
        ({"role": "user", "content": "ab", "mood": "good"}, "mood"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, "image_url"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}, "input_audio"),
    ],
)
def test_messages_that_would_be_read_in_part_are_refused(
    client: openai.OpenAI, message: dict[str, Any], said: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(model="writer", messages=[message], max_tokens=2)  # type: ignore[list-item]


def test_an_answer_goes_back_as_a_message(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "ab"}]
    messages.append(client.chat.completions.create(model="writer", messages=messages, max_tokens=2).choices[0].message)
    assert client.chat.completions.create(model="writer", messages=messages, max_tokens=2).choices[0].message.content


def test_null_is_a_field_that_was_left_out(live: Any) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "w5"}]}),
        ("/v1/completions", {"prompt": "w5", "echo": None}),
    ):
        left_out = {"stream": None, "n": None, "stop": None, "temperature": None, "stream_options": None}
        answer = live.client.post(path, json={**body, **left_out, "max_tokens": 2})
        assert answer.status_code == 200 and len(answer.json()["choices"]) == 1, answer.text
    for path, body in (
        ("/v1/embeddings", {"input": "w5", "model": None, "encoding_format": None, "of_a_later_version": None}),
        ("/embed", {"inputs": "w5", "normalize": None, "truncation_direction": None}),
        ("/models/encoder", {"inputs": "w5", "normalize": None, "parameters": None, "of_a_later_version": None}),
        ("/tokenize", {"inputs": "w5", "add_special_tokens": None}),
    ):
        plain = {name: value for name, value in body.items() if value is not None}
        answer = live.client.post(path, json=body)
        assert answer.status_code == 200 and answer.json() == live.client.post(path, json=plain).json(), answer.text
    needed = live.client.post("/v1/embeddings", json={"input": None})
    assert needed.status_code == 400 and needed.json()["error"]["param"] == "input"
    many = live.client.post("/embed", json={"inputs": "w5", **{f"a{number}": None for number in range(20_000)}})
    assert many.status_code == 422 and "unknown field `a0`" in many.json()["error"]


def test_an_empty_stop_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stop has an empty text"):
        client.completions.create(model="writer", prompt="ab", stop=[""], max_tokens=2)


def test_openai_completions_and_chats(client: openai.OpenAI, artifacts: Path) -> None:
    model = load(artifacts / "writer")
    given: dict[str, Any] = {"model": "writer", "temperature": 0, "max_tokens": 12}
    want = model.generate("ab", max_new_tokens=12, do_sample=False)
    answer = client.completions.create(prompt="ab", **given)
    assert answer.choices[0].text == want
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2 and 0 < answer.usage.completion_tokens <= 12
    chat: Any = [{"role": "user", "content": "ab"}]
    whole = client.chat.completions.create(messages=chat, **given)
    assert whole.choices[0].message.content == model.generate(chat, max_new_tokens=12, do_sample=False)
    pieces = list(
        client.chat.completions.create(messages=chat, stream=True, stream_options={"include_usage": True}, **given)
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == (
        whole.choices[0].message.content
    )
    assert pieces[-1].usage == whole.usage
    assert {piece.choices[0].finish_reason for piece in pieces if piece.choices} == {
        None,
        whole.choices[0].finish_reason,
    }


def test_openai_draws_repeat_with_a_seed_and_stop_where_told(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "writer", "prompt": "abc", "max_tokens": 24, "temperature": 1.5, "seed": 7}
    one, two = (client.completions.create(**given).choices[0].text for _ in range(2))
    assert one == two
    assert client.completions.create(**{**given, "seed": -7}).choices[0].text
    answer = client.completions.create(**given, n=3)
    assert answer.choices[0].text == one and len({choice.text for choice in answer.choices}) == 3
    assert answer.usage is not None and answer.usage.prompt_tokens == 3  # a prompt counts once
    stopped = client.completions.create(**given, stop=[one[3:5]]).choices[0]
    assert stopped.text == one.partition(one[3:5])[0] and stopped.finish_reason == "stop"


def test_a_stop_at_the_last_token_is_a_stop(client: openai.OpenAI) -> None:
    given: dict[str, Any] = {"model": "writer", "prompt": "ab", "temperature": 0}
    for most in range(1, 13):
        whole = client.completions.create(**given, max_tokens=most).choices[0]
        assert whole.finish_reason == "length"
        if whole.text[-1:] not in ("", "\ufffd") and whole.text.count(whole.text[-1]) == 1:
            break
    for stream in (False, True):
        answer: Any = client.completions.create(**given, max_tokens=most, stop=whole.text[-1], stream=stream)
        pieces = [piece.choices[0] for piece in answer] if stream else [answer.choices[0]]
        assert "".join(piece.text for piece in pieces) == whole.text[:-1]
        assert pieces[-1].finish_reason == "stop"


_NEUTRAL = {
    "tools": [], "tool_choice": "auto", "parallel_tool_calls": True, "functions": None, "function_call": None,
    "response_format": {"type": "text"}, "logprobs": False, "top_logprobs": None, "modalities": ["text"], "audio": None,
    "prediction": None, "reasoning_effort": None, "verbosity": "medium", "web_search_options": None, "logit_bias": {},
    "frequency_penalty": 0, "presence_penalty": 0.0, "n": 1, "stop": None, "seed": None, "user": "u", "store": False,
    "metadata": {"a": "b"}, "service_tier": "auto", "stream_options": {"include_obfuscation": False},
    "prompt_cache_retention": "24h", "max_completion_tokens": 2,
}  # fmt: skip


def test_fields_that_ask_for_nothing_are_taken(live: Any) -> None:
    body = {"model": "writer", "messages": [{"role": "developer", "content": "ab"}], "temperature": 0}
    answer = live.client.post("/v1/chat/completions", json={**body, **_NEUTRAL})
    assert answer.status_code == 200, answer.text
    as_system = {**body, "messages": [{"role": "system", "content": "ab"}], "max_tokens": 2}
    first = live.client.post("/v1/chat/completions", json=as_system).json()
    assert answer.json()["choices"] == first["choices"]


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": [{"type": "function"}]}, {"tool_choice": "required"}, {"functions": [{}]},
        {"response_format": {"type": "json_object"}}, {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}}, {"prediction": {"type": "content"}}, {"reasoning_effort": "high"},
        {"web_search_options": {}}, {"logit_bias": {"5": 101}}, {"logit_bias": {"100000": 1}}, {"logit_bias": {"a": 1}},
        {"logit_bias": {str(token): 0 for token in range(1025)}}, {"frequency_penalty": 2.1}, {"presence_penalty": -3},
    ],
)  # fmt: skip
def test_fields_that_ask_for_more_are_refused_by_name(asked: dict[str, Any], live: Any) -> None:
    body = {"model": "writer", "messages": [{"role": "user", "content": "ab"}], "max_tokens": 2}
    answer = live.client.post("/v1/chat/completions", json={**body, **asked})
    assert answer.status_code == 400 and next(iter(asked)) in answer.json()["error"]["message"]


@pytest.mark.parametrize("draws", [False, True])
def test_biases_and_penalties_change_the_tokens(draws: bool, client: openai.OpenAI, artifacts: Path) -> None:
    x, y = (str(load(artifacts / "writer").plain_tokenizer.encode(letter).ids[-1]) for letter in "xy")
    given: dict[str, Any] = {"model": "writer", "prompt": "ab", "max_tokens": 24, "seed": 3}
    given["temperature"] = 0.01 if draws else 0
    forced = client.completions.create(**given, logit_bias={x: 100}).choices[0]
    assert forced.text == "x" * 24
    for name in ("presence_penalty", "frequency_penalty"):
        weights: dict[str, Any] = {"logit_bias": {x: 100, y: 99.5}, name: 2}
        weighed = client.completions.create(**given, **weights)
        counts = {letter: weighed.choices[0].text.count(letter) for letter in "xy"}
        assert sum(counts.values()) == 24  # an x each time but for the penalties
        assert counts["y"] >= 1 and (name == "presence_penalty" or abs(counts["x"] - counts["y"]) <= 4), counts


@pytest.mark.parametrize("asked", [{"echo": True}, {"suffix": "c"}, {"best_of": 2}, {"best_of": 0}])
def test_completions_refuse_by_name_too(asked: dict[str, Any], live: Any) -> None:
    answer = live.client.post("/v1/completions", json={"model": "writer", "prompt": "ab", "max_tokens": 2, **asked})
    assert answer.status_code == 400 and next(iter(asked)) in answer.json()["error"]["message"]


def test_the_best_of_as_many_texts_as_are_asked_for_are_all(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="writer", prompt="ab", max_tokens=2, n=2, best_of=2)
    assert len(answer.choices) == 2


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("embeddings", {"input": "w5", "dimensions": 0}, "dimensions"),
        ("embeddings", {"input": "w5", "dimensions": 1000}, "dimensions"),
        ("embeddings", {"input": ["w5", ""]}, "input"),
        ("embeddings", {"input": "w5", "trunkate": True}, "trunkate"),
        ("embeddings", {"model": "writer", "input": "w5"}, "model"),
        ("completions", {"prompt": "ab", "logprobs": 99}, "logprobs"),
        ("completions", {"prompt": "ab", "temperature": -1}, "temperature"),
        ("completions", {"prompt": "ab", "max_tokens": 0}, "max_tokens"),
        ("completions", {"prompt": "ab", "stop": [""]}, "stop"),
        ("completions", {"prompt": "ab", "logit_bias": {"a": 1}}, "logit_bias"),
        ("completions", {"prompt": "ab", "stream_options": {"a": 1}}, "stream_options.a"),
        (
            "completions",
            {"prompt": "ab", "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "wizard", "content": "ab"}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": "user", "content": "ab"}], "top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_an_error_names_the_field_as_openais_do(path: str, body: dict[str, Any], field: str, live: Any) -> None:
    answer = live.client.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field), error


def test_an_alias_is_a_name_in_requests(serve: Any, artifacts: Path, encoder: AcceleratedModel) -> None:
    stated = ModelSettings(source=str(artifacts / "encoder"), aliases=("text-embedding-3-small", "owner/name"))
    live = serve(stated)
    client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
    for name in ("text-embedding-3-small", "owner/name", "encoder"):
        answer = client.embeddings.create(model=name, input="w5")
        np.testing.assert_allclose(answer.data[0].embedding, encoder.encode("w5"), atol=1e-5)
    assert client.models.retrieve("owner/name").id == "encoder"
    live.stop()


def test_a_completion_has_16_tokens_unless_the_request_says(client: openai.OpenAI, serve: Any) -> None:
    """As OpenAI has it for this path alone; thousands of tokens would end at the deadline, and be lost."""
    for model in (client, openai.OpenAI(base_url=f"{serve('writer', max_new_tokens=3).url}/v1", api_key="none")):
        most = 16 if model is client else 3
        asked: dict[str, Any] = {"model": "writer", "prompt": "ab", "temperature": 0}
        answer = model.completions.create(**asked)
        assert answer.choices[0].text == model.completions.create(**asked, max_tokens=most).choices[0].text
        assert answer.usage is not None and answer.usage.completion_tokens <= most
    with pytest.raises(openai.BadRequestError, match=r"writes 3 for a request at most.*setting max_new_tokens"):
        model.completions.create(**asked, max_tokens=5)


def test_a_long_prompt_shortens_no_other_completion(client: openai.OpenAI) -> None:
    """The model has 128 positions: behind the long one there is room for two tokens."""
    short, long = "ab", "a" * 126
    given: dict[str, Any] = {"model": "writer", "temperature": 0}
    alone = [client.completions.create(prompt=prompt, **given).choices[0].text for prompt in (short, long)]
    both = client.completions.create(prompt=[short, long], **given)
    assert [choice.text for choice in both.choices] == alone
    assert both.usage is not None and both.usage.completion_tokens > 4


def test_openai_errors_are_its_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.embeddings.create(model="other", input="w5")
    with pytest.raises(openai.BadRequestError, match="takes 64"):
        client.embeddings.create(model="encoder", input="w5 " * 100)
    with pytest.raises(
        openai.BadRequestError, match="max_tokens is 100000, and behind 2 tokens of prompt there is room"
    ):
        client.completions.create(model="writer", prompt="ab", max_tokens=100_000)
    with pytest.raises(openai.BadRequestError, match="max_tokens is 0: 1 or more is allowed"):
        client.completions.create(model="writer", prompt="ab", max_tokens=0)
    with pytest.raises(openai.NotFoundError, match="no such path"):
        client.responses.create(model="writer", input="ab")
    with pytest.raises(openai.BadRequestError, match="of kind 'classifier'"):
        client.embeddings.create(model="classifier", input="w5")
    with pytest.raises(openai.BadRequestError, match="suffix is not supported"):
        client.completions.create(model="writer", prompt="ab", suffix="c")
    with pytest.raises(openai.APIStatusError, match="DELETE is not taken here") as told:
        client.models.delete("encoder")
    assert told.value.status_code == 405 and told.value.type == "invalid_request_error"
    assert [model.id for model in client.models.list()] == ["encoder", "reranker", "classifier", "writer", "pictures"]


def test_the_hubs_client(
    live: Any, encoder: AcceleratedModel, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import InferenceClient, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # nothing but this server is asked

    found = InferenceClient(f"{live.url}/models/encoder").feature_extraction(TEXTS[0])
    np.testing.assert_allclose(found, encoder.encode(TEXTS[0])[None], atol=1e-5)
    ranked = InferenceClient(f"{live.url}/models/classifier").text_classification("w5 w9")
    assert {item.label for item in ranked} == {"BAD", "GOOD", "SO-SO"}
    assert sum(item.score for item in ranked) == pytest.approx(1)
    client = InferenceClient(f"{live.url}/models/classifier")
    raw = client.text_classification("w5 w9", function_to_apply="none", top_k=2)
    assert [item.label for item in raw] == [item.label for item in ranked[:2]]
    logits = load(artifacts / "classifier").map(["w5 w9"]).logits[0]
    assert raw[0].score == pytest.approx(logits.max(), abs=1e-5)
    similar = InferenceClient(f"{live.url}/models/encoder").sentence_similarity("w5", other_sentences=["w5", "w9"])
    assert similar[0] == pytest.approx(1, abs=1e-5) and similar[1] < 0.999
    cut = InferenceClient(live.url).feature_extraction("w5", dimensions=4, encoding_format="float")
    assert cut.shape == (1, 4)
    for stated in ({"model": "writer"}, {}):  # without a name, the client sends one of its own
        chat = InferenceClient(base_url=live.url).chat.completions.create(
            messages=[{"role": "user", "content": "ab"}], max_tokens=4, temperature=0, **stated
        )
        assert chat.choices[0].message.content is not None


def test_langchains_client(live: Any, encoder: AcceleratedModel) -> None:
    embeddings = pytest.importorskip("langchain_openai").OpenAIEmbeddings(
        model="encoder", base_url=f"{live.url}/v1", api_key="none", check_embedding_ctx_length=False, max_retries=0
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), encoder.encode(TEXTS), atol=1e-5)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), encoder.encode(TEXTS[0]), atol=1e-5)


def test_tritons_client(live: Any, artifacts: Path) -> None:
    from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

    client = InferenceServerClient(live.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("classifier")
    listed = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert set(listed.values()) == {"READY"} and {"classifier", "encoder", "writer"} <= set(listed)
    described = client.get_model_metadata("classifier")
    assert {"name": "logits", "datatype": "FP32", "shape": [-1, 3]} in described["outputs"]
    ids = np.array([[2, 5, 9, 3], [2, 7, 3, 0]])
    mask = (ids > 0).astype(np.int64)
    inputs = []
    for name, values in (("input_ids", ids), ("attention_mask", mask)):
        inputs.append(InferInput(name, values.shape, "INT64"))
        inputs[-1].set_data_from_numpy(values, binary_data=name == "input_ids")
    want = load(artifacts / "classifier")(input_ids=ids, attention_mask=mask).logits
    for binary in (True, False):
        wanted = InferRequestedOutput("logits", binary_data=binary)
        got = client.infer("classifier", inputs, outputs=[wanted]).as_numpy("logits")
        np.testing.assert_allclose(got, want, atol=1e-5)
