"""Settings of the modules of a sentence encoder, as its files state them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimum_core.artifact.embedding import SENTENCE

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
ORIGINAL = "accelerate the checkpoint that it was made from, which puts all of its modules into the graph"
#: The settings that each other kind of module has.
_NAMES = frozenset({"module_input_name", "module_output_name"})
SETTINGS_OF: Mapping[str, frozenset[str]] = {
    "Pooling": KNOWN,
    "Dense": _NAMES | {"in_features", "out_features", "bias", "activation_function", "use_residual"},
    "Normalize": _NAMES,
    "LayerNorm": frozenset({"dimension"}),
}
TANH = "torch.nn.modules.activation.Tanh"


def modes_of(stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the modes that the settings of a `Pooling` state, in order."""
    modes = stated.get("pooling_mode") or [mode for key, mode in SWITCHES.items() if stated.get(key)] or "mean"
    return (modes,) if isinstance(modes, str) else tuple(modes)


def names_of(stated: Mapping[str, Any]) -> tuple[str, str]:
    """Return the names of the features that a `Dense` or `Normalize` takes and gives."""
    taken = stated.get("module_input_name") or SENTENCE
    return taken, stated.get("module_output_name") or taken
