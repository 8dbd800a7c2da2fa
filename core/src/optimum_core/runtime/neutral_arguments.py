"""Arguments of a call that are left out where they say nothing: settings of transformers' `forward`, and inputs that a
given graph lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from optimum_core.artifact import Manifest
from optimum_core.errors import InputError

#: Arguments of transformers' `forward` that have no effect here when they have these values.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "return_dict": (True, False, None),
    "use_cache": (False, None),
    "output_attentions": (False, None),
    "output_hidden_states": (False, None),
}
#: By those that ask for further outputs: the outputs, one of each layer, that eager gives where they are True.
FURTHER = {
    "output_attentions": re.compile(r"attentions\.\d"),
    "output_hidden_states": re.compile(r"hidden_states\.\d"),
}

#: By name, the value that says nothing: all is text, picture or sound, and texts are of the first type.
_SAYS_NOTHING = {"attention_mask": 1, "pixel_mask": 1, "token_type_ids": 0}
_REMEDIES = {
    "attention_mask": "leave the padding out: call it with items of one length, or fast.map(items), which groups them",
    "pixel_mask": "leave the padding out: call it with pictures of one size",
    "token_type_ids": "leave token_type_ids out, or export the graph with them",
}


def absent_inputs(manifest: Manifest) -> Mapping[str, int]:
    """Return the inputs that a given graph lacks, with the values that say nothing; none for other models, whose
    originals decide what they take."""
    names = {spec.name for spec in manifest.inputs}
    if manifest.model.has_original:
        return {}
    return {name: value for name, value in _SAYS_NOTHING.items() if name not in names}


def require_neutral(who: str, name: str, value: Any, neutral: int) -> bool:
    """Return False, since an input that the graph does not take is left out.

    Raises:
        InputError: it says something.
    """
    if not (np.asarray(value.cpu() if hasattr(value, "detach") else value) == neutral).all():
        why = f"{name!r} holds other values than {neutral}, and the graph has no such input"
        raise InputError(who, why, _REMEDIES[name])
    return False
