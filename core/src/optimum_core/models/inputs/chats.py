"""Chats with pictures as the inputs of a model, by its own processor and chat template."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.errors import InputError, UnavailableError
from optimum_core.models.inputs.processor import without_labels
from optimum_core.models.pretrained import read_processor
from optimum_core.types.arrays import Arrays


class ChatReader:
    """Makes inputs of chats. Threads may share it.

    Args:
        directory: that of the model and its processor.
        who: the model, for errors.

    Raises:
        UnavailableError: there is no processor of chats.
    """

    def __init__(self, directory: Path, who: str) -> None:
        self._who = who
        self._processor = read_processor(directory)
        self._lock = threading.Lock()  # tokenizers change their settings while they read
        if not hasattr(self._processor, "apply_chat_template") or not hasattr(self._processor, "image_processor"):
            raise UnavailableError(who, "it has no processor of pictures and chats", "save its processor beside it")

    def __call__(self, chat: Sequence[Mapping[str, Any]]) -> Arrays:
        """Return the inputs of one chat by name, up to the place of the answer.

        Raises:
            InputError: the processor or its template refuses the chat.
        """
        messages = [{**message, "content": _parts(message.get("content"))} for message in chat]
        asked = {"tokenize": True, "return_dict": True, "return_tensors": "np", "add_generation_prompt": True}
        try:
            with self._lock:
                made = dict(self._processor.apply_chat_template(messages, **asked))
        except Exception as error:
            why = f"its processor refuses the chat: {error}"
            raise InputError(self._who, why, "check roles, and the number and size of pictures") from error
        return {name: np.asarray(value) for name, value in without_labels(made).items()}


def _parts(content: Any) -> Any:
    """Return the content of a message in parts, which the templates of such models go through."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content
