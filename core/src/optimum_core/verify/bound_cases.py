"""The case of whole numbers over all that their inputs take: samples, and ordinary tokens, may be few of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from optimum_core.models.eager.calls import is_plain
from optimum_core.models.inputs.layouts import InputLayout
from optimum_core.models.inputs.samples import ORDINARY, Case
from optimum_core.models.signatures.signature import ModelSignature
from optimum_core.models.signatures.value_limits import drawn_within
from optimum_core.types import TensorSpec
from optimum_core.types.arrays import ArrayMapping
from optimum_core.verify.comparison import ReferenceCase

log = logging.getLogger(__name__)

ALL_VALUES = "whole numbers within their bounds"


def bound_cases(
    module: Any, signature: ModelSignature, answered: Callable[[str, ArrayMapping], ReferenceCase]
) -> Iterator[ReferenceCase]:
    """Yield the case, where an input has bounds and other cases hold few of the values between them.

    Args:
        answered: returns a case of this name and these inputs with the eager model's outputs, or raises its error.
    """
    plain, layout = is_plain(module), signature.layout
    items = {item.name: item for item in layout.inputs}
    specs = [spec.at(layout.lengths) for spec in signature.inputs]
    wide = [spec for spec in specs if _is_wide(signature, spec, items[spec.name], plain)]
    if not wide:
        return
    inputs, rng = dict(signature.draw(Case(name=ALL_VALUES, padding="none", seed=95))), np.random.default_rng(95)
    meant = np.array(sorted({*layout.special.values(), *layout.placeholders}), dtype=np.int64)
    for spec in wide:
        like = inputs[spec.name]
        made = drawn_within(spec.columns or ((spec.least, spec.greatest),), like, rng)
        keep = (np.isin(like, meant) | np.isin(made, meant)) if items[spec.name].kind == "ids" else False
        inputs[spec.name] = np.where(keep, like, made)
    try:
        # Rows of tables that training left alone say nothing of a quantized model.
        yield replace(answered(ALL_VALUES, inputs), large=True)
    except Exception as error:  # noqa: BLE001 - the eager model refuses it, so there is nothing to compare
        log.info("%s is left out: eager refuses it: %r", ALL_VALUES, error)


def _is_wide(signature: ModelSignature, spec: TensorSpec, item: InputLayout, plain: bool) -> bool:
    """Whether an input of a plain module has both bounds, or ids or token types have others than those drawn."""
    columns = spec.columns or ((spec.least, spec.greatest),)
    bounded = any(None not in column for column in columns)
    if not bounded or (item.name in signature.layout.steady and not plain):
        return False
    if plain or spec.columns is not None or spec.greatest is None:
        return True
    drawn = min(signature.layout.vocabulary.get(item.name, ORDINARY), ORDINARY)
    return {"ids": spec.greatest >= drawn, "types": spec.greatest > 1}.get(item.kind, False)
