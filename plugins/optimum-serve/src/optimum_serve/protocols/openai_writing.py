"""OpenAI's protocol for text: completions and chats, whole or as streams."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from optimum_core.types import LastPiece
from optimum_serve.endpoints import Call, event_stream, json_response, together
from optimum_serve.errors import invalid
from optimum_serve.protocols.openai_forms import Usage
from optimum_serve.protocols.texts import several
from optimum_serve.serving import Prompt, ServedModel

#: OpenAI's seeds have 64 bits and may be negative; ours are not.
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_SEEDS = 2**64
#: Tokens behind a prompt where a request states no number, as OpenAI has it for /v1/completions.
_DEFAULT = 16
#: Parameters of a draw, by our names.
_DRAW = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a stream."""

    include_usage: bool | None = None


class _Writing(msgspec.Struct, kw_only=True):
    """The common part of requests for text. Temperature 0 takes the likeliest token."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: Seed | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def choices(self) -> int:
        """The number of texts for each prompt; clients send null for what they leave out."""
        return 1 if self.n is None else self.n


class CompletionRequest(_Writing, kw_only=True, forbid_unknown_fields=True):
    """A request to go on from a text, from several, or from ids."""

    prompt: str | list[str | int | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


class ContentPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a message; only text is read, and a part of another type is refused by its name."""

    type: str
    text: str = ""
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: str | None = None


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message of a chat; the fields behind its content come back from clients as null, with answers."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    function_call: Any = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class ChatRequest(_Writing, kw_only=True, forbid_unknown_fields=True):
    """A request for the next message of a chat."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: dict[str, Any] | None = None
    top_logprobs: int | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    web_search_options: Any = None


class WritingAnswer(msgspec.Struct, kw_only=True):
    """Texts that were written."""

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None


def _settings(body: _Writing, prompt: Prompt, most: int | None, choice: int, *, chat: bool) -> dict[str, Any]:
    """Return the arguments of `generate`.

    Args:
        choice: of several for one prompt, which draw with seeds of their own.
    """
    if most is not None and most < 1:
        raise invalid(f"max_tokens is {most}: 1 or more is allowed")
    if most is not None and most > prompt.room:
        room = f"behind {prompt.tokens} tokens of prompt there is room for {prompt.room}"
        limit = f"this server writes {prompt.room} for a request at most (its setting max_new_tokens)"
        raise invalid(f"max_tokens is {most}, and {limit if prompt.is_limited else room}", "too_long")
    found = {name: getattr(body, name) for name in _DRAW if getattr(body, name) is not None}
    if found.get("temperature") == 0:
        found = {"do_sample": False, **{name: found[name] for name in ("repetition_penalty",) if name in found}}
    if "seed" in found:
        found["seed"] = (found["seed"] + choice) % _SEEDS
    return {**found, "max_new_tokens": most or min(prompt.room, prompt.room if chat else _DEFAULT)}


def _check(body: _Writing, others: Mapping[str, Any]) -> None:
    """Refuse what is not done, rather than ignore it."""
    asked = {
        "frequency_penalty": body.frequency_penalty, "presence_penalty": body.presence_penalty,
        "logit_bias": body.logit_bias, **others,
    }  # fmt: skip
    for name, value in asked.items():
        if value:
            raise invalid(f"{name} is not supported here: leave it out", "not_supported")
    if not 1 <= body.choices <= 16:
        raise invalid(f"n is {body.choices}: 1 to 16 are allowed")


def _stops(body: _Writing) -> list[str]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops):
        raise invalid("stop has an empty text, at which every answer would end at once")
    return stops


async def completions(call: Call) -> Response:
    """Answer a request to go on from texts."""
    body: CompletionRequest = call.body
    others = {
        "echo": body.echo, "logprobs": body.logprobs is not None, "suffix": body.suffix,
        "best_of": (body.best_of or 1) > 1,
    }  # fmt: skip
    _check(body, others)
    model = call.server.chosen(call, body.model, lambda model: model.completes, "writes text behind a text")
    given = several(body.prompt, "prompt")
    if not isinstance(given[0], str):
        raise invalid("prompt is ids, and texts are taken here", "not_supported")
    prompts = [await model.prompt(text) for text in given for _ in range(body.choices)]
    return await _written(model, body, prompts, body.max_tokens, chat=False)


async def chat(call: Call) -> Response:
    """Answer a request for the next message of a chat."""
    body: ChatRequest = call.body
    _check(body, _unsupported(body))
    model = call.server.chosen(call, body.model, lambda model: model.completes, "writes text behind a text")
    if not body.messages:
        raise invalid("messages is empty")
    chat = [_for_template(message) for message in body.messages]
    prompt = await model.prompt(chat)
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return await _written(model, body, [prompt] * body.choices, most, chat=True)


def _unsupported(body: ChatRequest) -> dict[str, Any]:
    """Return what a request for a message asks for beyond text, by field; false where it asks for nothing."""
    return {
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "tools": body.tools,
        "tool_choice": body.tool_choice not in (None, "none", "auto"),
        "functions": body.functions,
        "function_call": body.function_call not in (None, "none", "auto"),
        "response_format": (body.response_format or {}).get("type", "text") != "text",
        "modalities": body.modalities not in (None, [], ["text"]),
        "audio": body.audio,
        "prediction": body.prediction,
        "reasoning_effort": body.reasoning_effort not in (None, "none"),
        "verbosity": body.verbosity,
        "web_search_options": body.web_search_options is not None,
    }


def _for_template(message: Message) -> dict[str, str]:
    named = {"name": message.name} if message.name else {}
    role = "system" if message.role == "developer" else message.role  # the later name of the same, unknown to models
    return {"role": role, "content": _content(message), **named}


def _content(message: Message) -> str:
    """Return the text of a message.

    Raises:
        RequestError: there is none, or there is more than text.
    """
    unread = {
        "refusal": message.refusal, "annotations": message.annotations, "audio": message.audio,
        "function_call": message.function_call, "tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id,
    }  # fmt: skip
    if name := next((name for name, value in unread.items() if value), None):
        raise invalid(f"a message has {name}, which is not supported here", "not_supported")
    if message.content is None:
        raise invalid(f"a message of role {message.role!r} has no content")
    if isinstance(message.content, list):
        if other := next((part.type for part in message.content if part.type != "text"), None):
            raise invalid(f"a message has a part of type {other!r}, and only text is read", "not_supported")
        return "".join(part.text for part in message.content)
    return message.content


async def _written(
    model: ServedModel, body: _Writing, prompts: Sequence[Prompt], most: int | None, *, chat: bool
) -> Response:
    form = _Form(model=model.name, chat=chat)
    settings = [
        _settings(body, prompt, most, number % body.choices, chat=chat) for number, prompt in enumerate(prompts)
    ]
    texts = [
        _Text(model.write(prompt, _stops(body), given), given["max_new_tokens"])
        for prompt, given in zip(prompts, settings, strict=True)
    ]
    read = sum(prompt.tokens for prompt in prompts[:: body.choices])  # a prompt counts once for all of its choices
    if body.stream:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        first = await together([text.start() for text in texts])
        return event_stream(_streamed(form, texts, first, read, with_usage))
    wholes = await together([text.whole() for text in texts])
    choices = [
        form.whole(index, whole, text.reason) for index, (whole, text) in enumerate(zip(wholes, texts, strict=True))
    ]
    return json_response(form.answer(choices, _usage(prompts_tokens=read, texts=texts)))


def _usage(*, prompts_tokens: int, texts: Sequence[_Text]) -> Usage:
    written = sum(text.tokens for text in texts)
    return Usage(prompt_tokens=prompts_tokens, completion_tokens=written, total_tokens=prompts_tokens + written)


class _Text:
    """One text as it comes, with its number of tokens."""

    def __init__(self, pieces: AsyncIterator[str], most: int) -> None:
        self._pieces = pieces
        self._most = most
        self._count = 0
        self._is_complete = False

    async def start(self) -> str:
        """Return the first piece: errors come before the answer has begun."""
        async for piece in self._counted():
            return piece
        return ""

    async def rest(self) -> AsyncIterator[str]:
        """Yield the further pieces that are not empty."""
        async for piece in self._counted():
            if piece:
                yield piece

    async def whole(self) -> str:
        """Return the text."""
        return "".join([piece async for piece in self._counted()])

    async def _counted(self) -> AsyncIterator[str]:
        async for piece in self._pieces:
            self._count += 1
            self._is_complete = isinstance(piece, LastPiece) and piece.is_complete
            yield str(piece)

    @property
    def tokens(self) -> int:
        """The number of tokens: of the pieces, the last one is what was held back."""
        return max(self._count - 1, 0)

    @property
    def reason(self) -> str:
        """The reason of its end: "stop", or "length" where only the number of tokens ended it."""
        return "stop" if self._is_complete or self.tokens < self._most else "length"


class _Form:
    """The structure of answers, whole and in pieces."""

    def __init__(self, *, model: str, chat: bool) -> None:
        self._model, self._chat = model, chat
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def whole(self, index: int, text: str, reason: str) -> dict[str, Any]:
        """Return a whole text as a choice."""
        body = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {"index": index, **body, "finish_reason": reason, "logprobs": None}

    def piece(self, index: int, text: str | None, reason: str | None = None, *, first: bool = False) -> dict[str, Any]:
        """Return a piece of a text as a choice."""
        if not self._chat:
            return {"index": index, "text": text or "", "finish_reason": reason, "logprobs": None}
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if text is not None:
            delta["content"] = text
        return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}

    def answer(
        self, choices: list[dict[str, Any]], usage: Usage | None = None, *, piece: bool = False
    ) -> WritingAnswer:
        """Return an answer, or a piece of one."""
        kind = ("chat.completion.chunk" if piece else "chat.completion") if self._chat else "text_completion"
        return WritingAnswer(
            id=self._id, object=kind, created=self._created, model=self._model, choices=choices, usage=usage
        )


async def _streamed(
    form: _Form, texts: Sequence[_Text], first: Sequence[str], prompt_tokens: int, with_usage: bool
) -> AsyncIterator[WritingAnswer]:
    for index, (text, start) in enumerate(zip(texts, first, strict=True)):
        yield form.answer([form.piece(index, start, first=True)], piece=True)
        async for piece in text.rest():
            yield form.answer([form.piece(index, piece)], piece=True)
        yield form.answer([form.piece(index, None, text.reason)], piece=True)
    if with_usage:
        yield form.answer([], _usage(prompts_tokens=prompt_tokens, texts=texts), piece=True)
