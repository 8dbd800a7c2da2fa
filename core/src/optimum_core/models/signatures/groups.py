"""Several texts to each picture, as the queries of OWL-ViT: the texts of a call are a multiple of the pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from optimum_core.models.eager.calls import ask
from optimum_core.models.inputs.layouts import Layout
from optimum_core.models.inputs.samples import Case, draw
from optimum_core.types.tensors import is_batch

log = logging.getLogger(__name__)
_TEXTS = "batch"
#: A number of texts that one, two and three pictures divide; beside it, one picture leaves all others possible.
_MANY = 6


def with_groups(layouts: Iterator[Layout], module: Any, arrays: Mapping[str, Any]) -> Iterator[Layout]:
    """Yield layouts, and where texts and pictures have rows of their own, such with texts in groups as well: first
    where the user's call is so."""
    for layout in layouts:
        media = [axis for axis in layout.axes if is_batch(axis) and axis != _TEXTS]
        if len(media) != 1 or _TEXTS not in layout.axes:
            yield layout
            continue
        grouped = replace(layout, lengths={**layout.lengths, _TEXTS: _MANY, media[0]: 1})
        is_given = layout.stated.get(_TEXTS, 0) > layout.stated.get(media[0], 0)
        if is_given and _takes_groups(module, grouped, arrays, media[0]):
            yield grouped
        yield layout
        if not is_given and _takes_groups(module, grouped, arrays, media[0]):
            yield grouped


def _takes_groups(module: Any, layout: Layout, arrays: Mapping[str, Any], media: str) -> bool:
    """Whether the eager model takes as many texts as a multiple of the pictures, and no others."""

    def takes(texts: int, pictures: int) -> bool:
        return _takes(module, layout, arrays, {_TEXTS: texts, media: pictures})

    return all(takes(_MANY, count) for count in (1, 2, 3)) and not takes(3, 2)


def _takes(module: Any, layout: Layout, arrays: Mapping[str, Any], lengths: Mapping[str, int]) -> bool:
    try:
        ask(module, draw(layout, Case(name="groups", lengths=lengths), arrays))
    except Exception as error:  # noqa: BLE001 - the eager model refuses these, by an error of any type
        log.debug("groups of %s: %r", dict(lengths), error)
        return False
    return True
