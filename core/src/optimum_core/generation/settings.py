"""The settings of one call of `generate`: those of the call, over those of `generation_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from optimum_core.errors import InputError, OptionError
from optimum_core.generation.unsupported import INERT, NEUTRAL, check_unsupported
from optimum_core.options import allowed
from optimum_core.types.arrays import NDArray

#: New tokens where neither the call nor the model states a number; transformers has 20.
DEFAULT_NEW = 20
#: Tokens among which is drawn where neither the call nor the model states a number, as in transformers.
DEFAULT_TOP_K = 50
#: The greatest penalty and bias, as in OpenAI's protocol.
_MOST_PENALTY, _MOST_BIAS = 2, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Settings with the names and meaning of transformers' `GenerationConfig`.

    Attributes:
        max_new_tokens: the greatest number of tokens to add.
        max_length: the greatest number of tokens, the prompt's included, where `read_settings` found no
            `max_new_tokens`; `for_prompt` makes that of it.
        min_length, min_new_tokens: the least number of tokens, with those of the prompt and without; the second goes
            before where both are stated.
        do_sample: draw each token by its probability; False: take the likeliest.
        temperature, top_k, top_p, min_p: shape the probabilities before a draw; None, or 0 for top_k: not at all.
        repetition_penalty: over 1, tokens that have occurred become less likely, with and without a draw.
        presence_penalty, frequency_penalty: over 0, tokens of the new text become less likely, once and by their number
            in it, as in OpenAI's protocol; transformers has neither.
        logit_bias: tokens and what is added to their scores, as in OpenAI's protocol; a mapping in a call.
        no_repeat_ngram_size: no sequence of so many tokens comes twice; 0 or None: any may.
        bad_words_ids: sequences of tokens that never come.
        eos: ids that end a row.
        pad: the id that fills ended rows.
        padding: the id that is padding in a prompt that comes without a mask; None: none is.
        positions: those that the model was made for, where neither the call nor the model states a number of tokens.
        start: the first token of a decoder behind an encoder; None: the model has none.
        forced_bos, forced_eos: the first new token, behind an encoder, and the last one; None: free.
        suppress_tokens, begin_suppress_tokens: tokens that never come, and never come first.
        begins_with_task: the model begins its texts with tokens for language and task, as Whisper does.
        seed: of the draws; None: a new one for each call.
        is_asked: the call states the number of tokens itself, rather than the model.
    """

    max_new_tokens: int = DEFAULT_NEW
    max_length: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    no_repeat_ngram_size: int | None = None
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    eos: tuple[int, ...] = ()
    pad: int = 0
    padding: int | None = None
    positions: int | None = None
    start: int | None = None
    forced_bos: int | None = None
    forced_eos: tuple[int, ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    begins_with_task: bool = False
    seed: int | None = None
    is_asked: bool = False

    def for_prompt(self, length: int) -> Settings:
        """Return the settings with the numbers of new tokens that they mean behind a prompt of this length.

        Raises:
            InputError: the prompt leaves no room for a token.
        """
        least = max(0, self.min_length - length) if self.min_new_tokens is None else self.min_new_tokens
        longest = self.max_length
        if self.positions is not None:
            longest = min(self.positions, length + self.max_new_tokens)
        if longest is None:
            return replace(self, min_new_tokens=least)
        if length >= longest:
            what = "the model was made for" if self.max_length is None else "max_length is"
            why = f"the prompt has {length} tokens, and {what} {longest}"
            raise InputError("generate", why, "pass max_new_tokens=, or a greater max_length")
        new = longest - length
        return replace(self, max_new_tokens=new, max_length=None, positions=None, min_new_tokens=least)

    def mask_of(self, ids: NDArray) -> NDArray | None:
        """Return the mask of a prompt that came without one, int64, as transformers takes it from the padding.

        >>> Settings(padding=0).mask_of(np.array([[0, 5, 7]]))
        array([[0, 1, 1]])
        """
        if self.padding is None or ids.ndim != 2 or ids.dtype.kind not in "iu" or not (ids == self.padding).any():
            return None
        mask: NDArray = (ids != self.padding).astype(np.int64)
        return mask


_IDS = frozenset(
    {"eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"}
)
_OWN = frozenset(
    {"eos", "pad", "padding", "positions", "start", "forced_bos", "forced_eos", "begins_with_task", "is_asked"}
)
_NAMES = frozenset(field.name for field in fields(Settings)) - _OWN | _IDS
#: Those that `generation_config.json` does not have.
_OF_CALLS = frozenset({"seed", "presence_penalty", "frequency_penalty", "logit_bias"})
_DRAWING = ("temperature", "top_k", "top_p", "min_p")
#: Names in `config.json` for the number of positions that a model was made for.
_POSITIONS = ("n_positions", "max_position_embeddings")
#: The names in `generation_config.json` that the loop goes by.
HONOURED = _NAMES - _OF_CALLS | {"bos_token_id"}
_KEPT = HONOURED | _OWN | _OF_CALLS


def read_settings(directory: Path, given: Mapping[str, Any]) -> Settings:
    """Return the settings of a call.

    Args:
        directory: that of the model; its `generation_config.json` gives defaults, as in transformers.
        given: the arguments of the call by name; None stands for the default, or turns off what the loop does not have.

    Raises:
        OptionError: a name is unknown, a value is of a wrong type or makes no sense, or a setting of the model or the
            call would change the tokens and is not available without torch.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(stated) - _NAMES - set(NEUTRAL) - INERT):
        known = ", ".join(sorted(_NAMES))
        raise OptionError(
            "generate", f"{unknown[0]!r} is unknown here", f"use {known}; with torch, all of transformers'"
        )
    of_model = {name: _read(name, value, strict=False) for name, value in _of_model(directory).items()}
    values = {**of_model, **{name: _read(name, value) for name, value in stated.items()}}
    if "do_sample" not in stated and any(name in stated for name in _DRAWING):
        values["do_sample"] = True
    check_unsupported(of_model, given, draws=bool(values.get("do_sample")))
    values = {"top_k": DEFAULT_TOP_K, **{name: value for name, value in values.items() if name in _KEPT}}
    values["is_asked"] = not {"max_new_tokens", "max_length"}.isdisjoint(stated)
    if "max_new_tokens" in values:  # it goes before, wherever both are stated
        values.pop("max_length", None)
    if not {"max_new_tokens", "max_length"}.isdisjoint(values):
        values.pop("positions", None)
    names = ("eos", "pad", "decoder_start", "forced_bos", "forced_eos", "bos")
    ends, pads, starts, first, last, begins = (_as_ids(values.pop(f"{name}_token_id", None)) for name in names)
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        values[name] = _as_ids(values.get(name))
    values["bad_words_ids"] = tuple(map(_as_ids, values.get("bad_words_ids") or ()))
    values["logit_bias"] = tuple((values.get("logit_bias") or {}).items())
    settings = replace(
        Settings(
            eos=ends,
            pad=(*pads, *ends, 0)[0],
            padding=next((pad for pad in pads[:1] if pad not in ends), None),
            start=next(iter((*starts, *begins)), None),
            forced_bos=next(iter(first), None),
            forced_eos=last,
        ),
        **values,
    )
    _check(settings)
    return settings


def start_ids(settings: Settings, rows: int, who: str) -> NDArray:
    """Return the first token of a decoder behind an encoder, int64 [rows, 1].

    Raises:
        InputError: neither the call nor the model states it.
    """
    if settings.start is None:
        raise InputError(who, "no first token of the decoder is stated", "pass decoder_start_token_id=")
    return np.full((rows, 1), settings.start, np.int64)


def _of_model(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):
        file = directory / name
        if file.is_file():
            tree = json.loads(file.read_text(encoding="utf-8"))
            if tree.get("model_type") == "blip":
                return _of_blip(tree.get("text_config") or {})
            of_tokens = name.startswith("generation")
            wanted = {*HONOURED, *NEUTRAL} if of_tokens else {"bos_token_id", *_IDS}
            found.update({key: tree[key] for key in wanted if tree.get(key) is not None})
            if not of_tokens:
                found["positions"] = next((tree[key] for key in _POSITIONS if isinstance(tree.get(key), int)), None)
            found |= {"begins_with_task": True} if "no_timestamps_token_id" in tree else {}
    return found


def _of_blip(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ids by which BLIP's own `generate` goes: those of its text model, whatever `generation_config.json`
    says; a configuration leaves out those that are usual."""
    usual = {"bos_token_id": 30522, "sep_token_id": 102, "pad_token_id": 0}
    first, last, pad = (text.get(name, number) for name, number in usual.items())
    return {"decoder_start_token_id": first, "eos_token_id": last, "pad_token_id": pad}


@cache
def _types() -> dict[str, Any]:
    """Return the types of the settings by the names of `generate`."""
    ids = int | tuple[int, ...]
    own = {**get_type_hints(Settings), "logit_bias": dict[int, float]}
    return {**own, **dict.fromkeys(_IDS | {"suppress_tokens", "begin_suppress_tokens"}, ids)}


def _read(name: str, value: Any, *, strict: bool = True) -> Any:
    """Return a setting in its own type.

    Args:
        strict: False: as it may stand in a file, such as 50.0 for a whole number.

    Raises:
        OptionError: it is of another type.
    """
    import msgspec

    if (kind := _types().get(name)) is None:  # one that the loop does not go by
        return value
    plain = value.tolist() if hasattr(value, "tolist") else value  # numbers and arrays of numpy and torch
    try:
        return msgspec.convert(plain, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise OptionError(name, f"it cannot be {value!r}", f"pass {allowed(kind)}") from error


def _as_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(item) for item in value) if isinstance(value, list | tuple) else (int(value),)


def _check(settings: Settings) -> None:
    forced = ({settings.forced_bos} - {None}, set(settings.forced_eos))
    rules = [
        ("max_new_tokens", settings.max_new_tokens >= 1, "1 or more"),
        ("max_length", settings.max_length is None or settings.max_length >= 1, "1 or more"),
        ("min_length", settings.min_length >= 0, "0 or more"),
        ("min_new_tokens", (settings.min_new_tokens or 0) >= 0, "0 or more"),
        ("no_repeat_ngram_size", (settings.no_repeat_ngram_size or 0) >= 0, "0 or more"),
        ("bad_words_ids", all(settings.bad_words_ids), "sequences of one or more ids"),
        ("suppress_tokens", not any(ids and ids <= {*settings.suppress_tokens} for ids in forced), "no forced token"),
        ("repetition_penalty", _is_penalty(settings.repetition_penalty), "0.001 to 1000"),
        ("presence_penalty", abs(settings.presence_penalty) <= _MOST_PENALTY, f"-{_MOST_PENALTY} to {_MOST_PENALTY}"),
        ("frequency_penalty", abs(settings.frequency_penalty) <= _MOST_PENALTY, f"-{_MOST_PENALTY} to {_MOST_PENALTY}"),
        (
            "logit_bias",
            all(abs(bias) <= _MOST_BIAS for _, bias in settings.logit_bias),
            f"-{_MOST_BIAS} to {_MOST_BIAS} for a token",
        ),
        ("seed", settings.seed is None or settings.seed >= 0, "0 or more"),
    ]
    for name, holds, range_ in [*rules, *(_rules_of_draws(settings) if settings.do_sample else ())]:
        if not holds:
            raise OptionError(name, f"{getattr(settings, name)!r} makes no sense", f"pass {range_}")


def _rules_of_draws(settings: Settings) -> tuple[tuple[str, bool, str], ...]:
    return (
        ("temperature", settings.temperature is None or settings.temperature > 0, "more than 0"),
        ("top_k", settings.top_k is None or settings.top_k >= 0, "0 or more"),
        ("top_p", settings.top_p is None or 0 < settings.top_p <= 1, "more than 0 and at most 1"),
        ("min_p", settings.min_p is None or 0 <= settings.min_p <= 1, "0 to 1"),
    )


def _is_penalty(value: float | None) -> bool:
    """Whether it leaves scores within what 32 bits hold."""
    return value is None or 1e-3 <= value <= 1e3
