"""Messages of OpenAI's chats as a model reads them: texts, and pictures for a model that sees them."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from typing import Any

from optimum_serve.errors import RequestError, invalid
from optimum_serve.protocols.openai_forms import ContentPart, ImageUrl, Message
from optimum_serve.protocols.pictures import read_pictures
from optimum_serve.serving import Prompt, ServedModel

_DATA = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,")
_TEXT, _IMAGE = "text", "image_url"
_MESSAGES = "messages"


async def chat_prompt(model: ServedModel, messages: Sequence[Message]) -> Prompt:
    """Return messages as a prompt of a model.

    Raises:
        RequestError: there is none; one has no content, or what the model does not read; or they are too long.
    """
    if not messages:
        raise invalid("messages is empty", field=_MESSAGES)
    if not model.sees:
        return await model.prompt([_in_text(message) for message in messages])
    model.check_number(sum(len(message.content) for message in messages if isinstance(message.content, list)))
    return await model.prompt(await asyncio.to_thread(_in_parts, messages))


def _unread(message: str) -> RequestError:
    return invalid(message, "not_supported", field=_MESSAGES)


def _in_text(message: Message) -> dict[str, Any]:
    parts = _parts_of(message)
    if other := next((part.type for part in parts if part.type != _TEXT), None):
        raise _unread(f"a message has a part of type {other!r}, and only text is read")
    return {**_head(message), "content": "".join(part.text for part in parts)}


def _in_parts(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages in parts, as processors of transformers take them, with pictures of PIL."""
    chat: list[dict[str, Any]] = []
    pictures: list[bytes] = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for part in _parts_of(message):
            if part.type == _TEXT:
                parts.append({"type": "text", "text": part.text})
            elif part.type == _IMAGE and part.image_url is not None:
                pictures.append(_content_of(part.image_url))
                parts.append({"type": "image"})
            else:
                raise _unread(f"a message has a part of type {part.type!r}: text and pictures are read")
        chat.append({**_head(message), "content": parts})
    read = iter(read_pictures(pictures))
    for part in (part for message in chat for part in message["content"]):
        if part["type"] == "image":
            part["image"] = next(read)
    return chat


def _content_of(picture: ImageUrl) -> bytes:
    """Return the bytes of a picture.

    Raises:
        RequestError: it is an address, or no base64; or its size is to be another than the model's own.
    """
    if picture.detail not in (None, "auto"):
        raise _unread(
            f"detail {picture.detail!r} is not supported here, as the model has sizes of its own: leave it out"
        )
    beginning = _DATA.match(picture.url)
    if beginning is None:
        message = "image_url is no data:image/…;base64 URL, and this server fetches nothing: send the picture itself"
        raise _unread(message)
    try:
        return base64.b64decode(picture.url[beginning.end() :], validate=True)
    except ValueError:
        raise invalid("image_url is no picture in base64", field=_MESSAGES) from None


def _head(message: Message) -> dict[str, str]:
    named = {"name": message.name} if message.name else {}
    role = "system" if message.role == "developer" else message.role  # the later name of the same, unknown to models
    return {"role": role, **named}


def _parts_of(message: Message) -> list[ContentPart]:
    """Return the content of a message in parts.

    Raises:
        RequestError: there is none, or there is something beside it.
    """
    unread = {
        "refusal": message.refusal, "annotations": message.annotations, "audio": message.audio,
        "function_call": message.function_call, "tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id,
    }  # fmt: skip
    if name := next((name for name, value in unread.items() if value), None):
        raise _unread(f"a message has {name}, which is not supported here")
    if message.content is None:
        raise invalid(f"a message of role {message.role!r} has no content", field=_MESSAGES)
    return [ContentPart(type=_TEXT, text=message.content)] if isinstance(message.content, str) else message.content
