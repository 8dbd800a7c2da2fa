"""Structures of OpenAI's protocol that embeddings and text have in common."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Numbers of tokens."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
