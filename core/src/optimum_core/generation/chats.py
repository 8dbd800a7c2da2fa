"""Chats as a model's template writes them, by the rules of transformers' `apply_chat_template`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

Chat = Sequence[Mapping[str, Any]]
_CONFIG, _TEMPLATE, _OLDER_NAMES = "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"
#: The key of `tokenizer_config.json` in whose place older tokenizers have a file of names.
_NEWER = "added_tokens_decoder"
#: Keys of `tokenizer_config.json` that give special tokens names of the model's own.
_OWN_NAMES = ("extra_special_tokens", "model_specific_special_tokens")
#: Names under which the reasoning of a message comes.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def read_template(directory: Path) -> tuple[str | None, dict[str, str]]:
    """Return the chat template beside a model, None: there is none, and special tokens by the names that it uses."""
    stated = _read_json(directory / _CONFIG)
    if _NEWER not in stated:
        stated |= _read_json(directory / _OLDER_NAMES)
    own = [stated[key] for key in _OWN_NAMES if isinstance(stated.get(key), Mapping)]
    named = {name: value for name, value in stated.items() if name.endswith("_token")}
    specials = {name: _content(value) for part in (named, *own) for name, value in part.items() if _is_token(value)}
    file = directory / _TEMPLATE
    template = file.read_text(encoding="utf-8") if file.is_file() else stated.get("chat_template")
    if isinstance(template, list):  # several, by name; others than this one are for tools and documents
        template = {item["name"]: item["template"] for item in template}.get("default")
    return template if isinstance(template, str) else None, specials


def splits_special_tokens(directory: Path) -> bool:
    """Whether special tokens in a text are read as other text."""
    return bool(_read_json(directory / _CONFIG).get("split_special_tokens"))


def rendered(template: str, chat: Chat, specials: Mapping[str, str]) -> str:
    """Return a chat as a template writes it, up to the place of the answer.

    Raises:
        Exception: of any kind, as a template is a program; `TEMPLATE_ERRORS` are those that it raises for a chat.
    """
    messages = [_message(message) for message in chat]
    made: str = _compiled(template).render(
        messages=messages, tools=None, documents=None, add_generation_prompt=True, **specials
    )
    return made


TEMPLATE_ERRORS = (TypeError, ValueError, AttributeError, KeyError)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as templates expect it: what is None is left out, and reasoning has the usual names."""
    stated = {name: value for name, value in message.items() if value is not None}
    reasoning = next((stated[name] for name in _REASONING if name in stated), None)
    return stated if reasoning is None else {"thinking": reasoning, **stated, "reasoning_content": reasoning}


@lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    """Return a template in the environment in which transformers renders it, with the functions that it may use."""
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Answers(Extension):
        """The blocks by which templates mark what the model has written."""

        tags = {"generation"}  # noqa: RUF012 # as its base class states it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("written"), [], [], body).set_lineno(line)

        @staticmethod
        def written(caller: Any) -> Any:
            return caller()

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def as_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Answers, loopcontrols])
    made.filters["tojson"] = as_json
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda shape: datetime.now().strftime(shape)
    return made.from_string(template)


def _read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _is_token(value: Any) -> bool:
    return bool(value) and isinstance(value, str | Mapping)


def _content(value: Any) -> str:
    return str(value["content"]) if isinstance(value, Mapping) else str(value)
