"""Structures of OpenAI's protocol for text, and what embeddings and text have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from optimum_serve.protocols.texts import Given, Id

#: OpenAI's seeds have 64 bits and may be negative; ours are not.
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Usage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Numbers of tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Writing(msgspec.Struct, kw_only=True):
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
    logit_bias: dict[Id, float] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @property
    def choices(self) -> int:
        """The number of texts for each prompt; clients send null for what they leave out."""
        return 1 if self.n is None else self.n


class CompletionRequest(Writing, kw_only=True, forbid_unknown_fields=True):
    """A request to go on from a text, from several, or from ids."""

    prompt: Given
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


class ImageUrl(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A picture in a message, as a data URL."""

    url: str
    detail: str | None = None


class ContentPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a message: a text, or a picture; a part of another type is refused by its name."""

    type: str
    text: str = ""
    image_url: ImageUrl | None = None
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


class ChatRequest(Writing, kw_only=True, forbid_unknown_fields=True):
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
