"""The settings of one call of `generate`: those of the call, over those of `generation_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError

#: New tokens where neither the call nor the model states a number; transformers has 20.
DEFAULT_NEW = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings with the names and meaning of transformers' `GenerationConfig`.

    Attributes:
        max_new_tokens: the greatest number of tokens to add.
        do_sample: draw each token by its probability; False: take the likeliest.
        temperature, top_k, top_p, min_p: shape the probabilities before a draw; None, or 0 for top_k: not at all.
        repetition_penalty: over 1, tokens that have occurred become less likely, with and without a draw.
        eos: ids that end a row.
        pad: the id that fills ended rows.
        seed: of the draws; None: a new one for each call.
    """

    max_new_tokens: int = DEFAULT_NEW
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos: tuple[int, ...] = ()
    pad: int = 0
    seed: int | None = None


_NAMES = frozenset(field.name for field in fields(Settings)) - {"eos", "pad"} | {"eos_token_id", "pad_token_id"}
_DRAWING = ("temperature", "top_k", "top_p", "min_p")


def read_settings(directory: Path, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a call.

    Args:
        directory: that of the model; its `generation_config.json` gives defaults, as in transformers.
        given: the arguments of the call by name; None stands for the default.

    Raises:
        OptionError: a name is unknown, or a value makes no sense.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(stated) - _NAMES):
        known = ", ".join(sorted(_NAMES))
        raise OptionError(
            "generate", f"{unknown[0]!r} is unknown here", f"use {known}; with torch, all of transformers'"
        )
    values = {**_of_model(directory), **stated}
    if "do_sample" not in stated and any(name in stated for name in _DRAWING):
        values["do_sample"] = True
    ends = _as_ids(values.pop("eos_token_id", None))
    pads = _as_ids(values.pop("pad_token_id", None))
    settings = replace(Settings(eos=ends, pad=(*pads, *ends, 0)[0]), **values)
    _check(settings)
    return settings


def _of_model(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        file = directory / name
        if file.is_file():
            tree = json.loads(file.read_text(encoding="utf-8"))
            wanted = _NAMES - {"seed"} if name.startswith("generation") else {"eos_token_id", "pad_token_id"}
            found.update({key: tree[key] for key in wanted if tree.get(key) is not None})
    return found


def _as_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(item) for item in value) if isinstance(value, list | tuple) else (int(value),)


def _check(settings: Settings) -> None:
    rules = (
        ("max_new_tokens", settings.max_new_tokens >= 1, "1 or more"),
        ("temperature", settings.temperature is None or settings.temperature > 0, "more than 0"),
        ("top_k", settings.top_k is None or settings.top_k >= 0, "0 or more"),
        ("top_p", settings.top_p is None or 0 < settings.top_p <= 1, "more than 0 and at most 1"),
        ("min_p", settings.min_p is None or 0 <= settings.min_p <= 1, "0 to 1"),
        ("repetition_penalty", settings.repetition_penalty is None or settings.repetition_penalty > 0, "more than 0"),
    )
    for name, holds, range_ in rules:
        if not holds:
            raise OptionError(name, f"{getattr(settings, name)!r} makes no sense", f"pass {range_}")
