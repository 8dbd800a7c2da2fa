"""Settings of a pooling, read without torch: also of one that lies behind a graph of the transformer alone.

Packages that convert a sentence encoder keep its transformer in the graph, and its modules in files beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_core.artifact.embedding import SENTENCE, read_object
from optimum_core.errors import SourceError
from optimum_core.models.sources.sentences.directory import read_modules

#: Modes of pooling by the older names of their switches, in the order in which they are put side by side.
SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: The settings that a `Pooling` has.
KNOWN = frozenset({"pooling_mode", "include_prompt", "embedding_dimension", "word_embedding_dimension", *SWITCHES})
_POOLING, _NORMALIZE = "Pooling", "Normalize"
_RUN = f"{_POOLING}, and a {_NORMALIZE} after it"
ORIGINAL = "accelerate the checkpoint that it was made from, which puts all of its modules into the graph"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPooling:
    """The modules behind a transformer that is a graph of its own.

    Attributes:
        modes: of the pooling, whose vectors lie side by side.
        include_prompt: whether the tokens of the prompt are pooled.
        normalizes: whether the vector gets length 1.
    """

    modes: tuple[str, ...]
    include_prompt: bool = True
    normalizes: bool = False


def modes_of(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modes that the settings of a `Pooling` state, in order."""
    modes = stated.get("pooling_mode") or [mode for key, mode in SWITCHES.items() if stated.get(key)] or "mean"
    return (modes,) if isinstance(modes, str) else tuple(modes)


def read_pooling(directory: Path, name: str) -> TokenPooling:
    """Return the modules that `modules.json` of a directory lists.

    Raises:
        SourceError: they are no pooling, with or without a normalization behind it, or have unknown settings.
    """
    who, heads = f"model {name!r}", read_modules(directory, name).heads
    kinds = [kind for kind, _ in heads]
    if kinds not in ([_POOLING], [_POOLING, _NORMALIZE]):
        listed = ", ".join(kinds)
        why = f"its modules are {listed}, and behind a graph of the transformer alone only these run: {_RUN}"
        raise SourceError(who, why, ORIGINAL)
    (_, place), *behind = heads
    if not (place / "config.json").is_file():  # every mode is another embedding
        raise SourceError(who, f"the settings of its module {_POOLING} are not in {place}", "fetch or save it again")
    stated = _settings(place, who)
    unknown = [*sorted(set(stated) - KNOWN), *(mode for mode in modes_of(stated) if mode not in SWITCHES.values())]
    for _, other in behind:
        unknown += [f"{key}: {value}" for key, value in _settings(other, who).items() if value not in (None, SENTENCE)]
    if unknown:
        raise SourceError(who, f"its module {_POOLING} or {_NORMALIZE} states {unknown[0]!r}, unknown here", ORIGINAL)
    include = bool(stated.get("include_prompt", True))
    return TokenPooling(modes=modes_of(stated), include_prompt=include, normalizes=bool(behind))


def _settings(place: Path, who: str) -> Mapping[str, Any]:
    try:
        return read_object(place / "config.json")
    except ValueError as error:
        raise SourceError(who, f"{place / 'config.json'} cannot be read: {error}", "fetch or save it again") from error
