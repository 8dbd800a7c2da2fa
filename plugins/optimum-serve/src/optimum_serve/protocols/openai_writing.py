"""OpenAI's protocol for text: completions and chats, whole or as streams."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from optimum_core.types import LastPiece, ScoredPiece, TokenIds
from optimum_serve.endpoints import Call, event_stream, json_response, together
from optimum_serve.errors import invalid
from optimum_serve.protocols import openai_logprobs
from optimum_serve.protocols.openai_chats import chat_prompt
from optimum_serve.protocols.openai_forms import ChatRequest, CompletionRequest, Usage, Writing, WritingAnswer
from optimum_serve.protocols.texts import several
from optimum_serve.serving import Prompt, ServedModel

_SEEDS = 2**64
#: Tokens behind a prompt where a request states no number, as OpenAI has it for /v1/completions.
_DEFAULT = 16
#: Texts in `stop`, and characters of all: every one is looked for at every token, between those of other texts.
_STOPS, _STOP_CHARACTERS = 16, 4096
#: Tokens in `logit_bias`: every one is looked up for every new token, between those of other texts.
_BIASES = 1024
#: Parameters of a draw, by our names.
_DRAW = ("temperature", "top_p", "top_k", "min_p", "seed")
#: Parameters with and without a draw.
_WEIGHTS = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def _settings(body: Writing, prompt: Prompt, most: int | None, choice: int, *, chat: bool) -> dict[str, Any]:
    """Return the arguments of `generate`.

    Args:
        choice: of several for one prompt, which draw with seeds of their own.
    """
    if most is not None and most < 1:
        raise invalid(f"max_tokens is {most}: 1 or more is allowed", field="max_tokens")
    if most is not None and most > prompt.room:
        room = f"behind {prompt.tokens} tokens of prompt there is room for {prompt.room}"
        limit = f"this server writes {prompt.room} for a request at most (its setting max_new_tokens)"
        message = f"max_tokens is {most}, and {limit if prompt.is_limited else room}"
        raise invalid(message, "too_long", field="max_tokens")
    found = {name: getattr(body, name) for name in _DRAW if getattr(body, name) is not None}
    if found.get("temperature") == 0:
        found = {"do_sample": False}
    if "seed" in found:
        found["seed"] = (found["seed"] + choice) % _SEEDS
    found |= {name: value for name in _WEIGHTS if (value := getattr(body, name)) is not None}
    if body.logit_bias:
        found["logit_bias"] = body.logit_bias
    return {**found, "max_new_tokens": most or min(prompt.room, prompt.room if chat else _DEFAULT)}


def _check(body: Writing, others: Mapping[str, Any]) -> None:
    """Refuse what is not done, rather than ignore it."""
    asked = {
        "stream_options.include_obfuscation": body.stream_options and body.stream_options.include_obfuscation, **others,
    }  # fmt: skip
    for name, value in asked.items():
        if value:
            raise invalid(f"{name} is not supported here: leave it out", "not_supported", field=name)
    if not 1 <= body.choices <= 16:
        raise invalid(f"n is {body.choices}: 1 to 16 are allowed", field="n")


def _stops(body: Writing) -> list[str]:
    """Return the texts that end an answer.

    Raises:
        RequestError: one is empty, or they are too many.
    """
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if not all(stops):
        raise invalid("stop has an empty text, at which every answer would end at once", field="stop")
    if len(stops) > _STOPS or sum(map(len, stops)) > _STOP_CHARACTERS:
        message = f"stop has {len(stops)} texts, and {_STOPS} of {_STOP_CHARACTERS} characters together are allowed"
        raise invalid(message, "too_many", field="stop")
    return stops


def _check_biases(model: ServedModel, body: Writing) -> None:
    """Refuse biases of tokens that the model does not have, and more than a request may have."""
    biases = body.logit_bias or {}
    if len(biases) > _BIASES:
        message = f"logit_bias has {len(biases)} tokens, and {_BIASES} are allowed"
        raise invalid(message, "too_many", field="logit_bias")
    for token in biases:
        if model.model.plain_tokenizer.id_to_token(token) is None:
            raise invalid(f"logit_bias has {token}, and the tokenizer has no such token", field="logit_bias")


async def completions(call: Call) -> Response:
    """Answer a request to go on from texts."""
    body: CompletionRequest = call.body
    others = {
        "echo": body.echo, "suffix": body.suffix, "best_of": body.best_of not in (None, 1, body.choices),
    }  # fmt: skip
    _check(body, others)
    model = call.server.chosen(call, body.model, lambda model: model.completes, "writes text behind a text")
    given = several(body.prompt, "prompt")
    model.check_number(len(given) * body.choices)
    read = [await model.prompt(one if isinstance(one, str) else TokenIds(one)) for one in given]
    prompts = [prompt for prompt in read for _ in range(body.choices)]
    return await _written(model, body, prompts, body.max_tokens, chat=False)


async def chat(call: Call) -> Response:
    """Answer a request for the next message of a chat."""
    body: ChatRequest = call.body
    _check(body, _unsupported(body))
    model = call.server.chosen(call, body.model, lambda model: model.completes or model.sees, "answers a chat")
    prompt = await chat_prompt(model, body.messages)
    call.memory.hold(prompt.size)
    most = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    return await _written(model, body, [prompt] * body.choices, most, chat=True)


def _unsupported(body: ChatRequest) -> dict[str, Any]:
    """Return what a request for a message asks for beyond text, by field; false where it asks for nothing."""
    return {
        "tools": body.tools,
        "tool_choice": body.tool_choice not in (None, "none", "auto"),
        "functions": body.functions,
        "function_call": body.function_call not in (None, "none", "auto"),
        "response_format": (body.response_format or {}).get("type", "text") != "text",
        "modalities": body.modalities not in (None, [], ["text"]),
        "audio": body.audio,
        "prediction": body.prediction,
        "reasoning_effort": body.reasoning_effort not in (None, "none"),
        "verbosity": body.verbosity not in (None, "medium"),
        "web_search_options": body.web_search_options is not None,
    }


async def _written(
    model: ServedModel, body: Writing, prompts: Sequence[Prompt], most: int | None, *, chat: bool
) -> Response:
    _check_biases(model, body)
    form = _Form(model=model.name, chat=chat)
    settings = [
        _settings(body, prompt, most, number % body.choices, chat=chat) for number, prompt in enumerate(prompts)
    ]
    count = openai_logprobs.asked(body)
    texts = [
        _Text(model.write(prompt, _stops(body), given, count), given["max_new_tokens"], is_scored=count is not None)
        for prompt, given in zip(prompts, settings, strict=True)
    ]
    read = sum(prompt.tokens for prompt in prompts[:: body.choices])  # a prompt counts once for all of its choices
    if body.stream:
        with_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        first = await together([text.start() for text in texts])
        return event_stream(_streamed(form, texts, first, read, with_usage))
    wholes = await together([text.whole() for text in texts])
    choices = [form.whole(index, whole, text) for index, (whole, text) in enumerate(zip(wholes, texts, strict=True))]
    return json_response(form.answer(choices, _usage(prompts_tokens=read, texts=texts)))


def _usage(*, prompts_tokens: int, texts: Sequence[_Text]) -> Usage:
    written = sum(text.tokens for text in texts)
    return Usage(prompt_tokens=prompts_tokens, completion_tokens=written, total_tokens=prompts_tokens + written)


class _Text:
    """One text as it comes, with its number of tokens.

    Args:
        is_scored: its pieces have log probabilities.
    """

    def __init__(self, pieces: AsyncIterator[str], most: int, *, is_scored: bool) -> None:
        self._pieces = pieces
        self._most = most
        self._count = 0
        self._is_complete = False
        self.is_scored = is_scored
        self.scored: list[ScoredPiece] = []

    async def start(self) -> str:
        """Return the first piece: errors come before the answer has begun."""
        async for piece in self._counted():
            return piece
        return ""

    async def rest(self) -> AsyncIterator[str]:
        """Yield the further pieces that are not empty, or have log probabilities."""
        async for piece in self._counted():
            if piece or isinstance(piece, ScoredPiece):
                yield piece

    async def whole(self) -> str:
        """Return the text; the pieces with log probabilities are in `scored` then."""
        pieces = [piece async for piece in self._counted()]
        self.scored = [piece for piece in pieces if isinstance(piece, ScoredPiece)]
        return "".join(pieces)

    async def _counted(self) -> AsyncIterator[str]:
        async for piece in self._pieces:
            self._count += 1
            self._is_complete = isinstance(piece, LastPiece) and piece.is_complete
            yield piece if isinstance(piece, ScoredPiece) else str(piece)

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

    def whole(self, index: int, whole: str, text: _Text) -> dict[str, Any]:
        """Return a whole text as a choice."""
        body = {"message": {"role": "assistant", "content": whole}} if self._chat else {"text": whole}
        logprobs = self._logprobs(text.scored, 0) if text.is_scored else None
        return {"index": index, **body, "finish_reason": text.reason, "logprobs": logprobs}

    def piece(self, index: int, text: str, offset: int = 0, *, first: bool = False) -> dict[str, Any]:
        """Return a piece of a text as a choice.

        Args:
            offset: the characters of the tokens before it, for log probabilities.
        """
        logprobs = self._logprobs([text], offset) if isinstance(text, ScoredPiece) else None
        if not self._chat:
            return {"index": index, "text": str(text), "finish_reason": None, "logprobs": logprobs}
        role = {"role": "assistant"} if first else {}
        return {"index": index, "delta": {**role, "content": str(text)}, "finish_reason": None, "logprobs": logprobs}

    def end(self, index: int, reason: str) -> dict[str, Any]:
        """Return the end of a text as a choice."""
        nothing: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        return {"index": index, **nothing, "finish_reason": reason, "logprobs": None}

    def _logprobs(self, pieces: Sequence[ScoredPiece], offset: int) -> dict[str, Any]:
        return openai_logprobs.of_chat(pieces) if self._chat else openai_logprobs.of_completion(pieces, offset)

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
        offset = _length(start)
        async for piece in text.rest():
            yield form.answer([form.piece(index, piece, offset)], piece=True)
            offset += _length(piece)
        yield form.answer([form.end(index, text.reason)], piece=True)
    if with_usage:
        yield form.answer([], _usage(prompts_tokens=prompt_tokens, texts=texts), piece=True)


def _length(piece: str) -> int:
    return openai_logprobs.length_of(piece) if isinstance(piece, ScoredPiece) else 0
