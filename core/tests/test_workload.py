"""Shapes to be fast at: a default for every kind of model, or what was stated, refused where the model cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from optimum_core.errors import OptionError
from optimum_core.measure.workload import Limits, workload
from optimum_core.types import TensorSpec


def _specs(*shapes: tuple[int | str, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=f"x{index}", dtype="int64", shape=shape) for index, shape in enumerate(shapes))


TEXT = _specs(("batch", "sequence"), ("batch", "sequence"))
PAIRS = _specs(("batch", "sequence"), ("batch", "decoder_sequence"))
PICTURE = _specs(("batch", 3, 224, 224))
SOUND = _specs(("batch", "samples"))
BOTH = _specs(("batch", "sequence"), ("media_batch", 3, 32, 32))
FIXED = _specs((1, 7))


def _found(
    shapes: Any, specs: tuple[TensorSpec, ...], limits: Mapping[str, int] | None = None
) -> list[tuple[str, dict[str, int]]]:
    return [
        (shape.name, dict(shape.lengths)) for shape in workload(shapes, specs, Limits(least={}, greatest=limits or {}))
    ]


def test_texts_are_short_long_and_many() -> None:
    assert _found(None, TEXT) == [
        ("1x16", {"batch": 1, "sequence": 16}),
        ("1x128", {"batch": 1, "sequence": 128}),
        ("8x128", {"batch": 8, "sequence": 128}),
    ]


def test_no_default_is_longer_than_the_model_allows_and_none_comes_twice() -> None:
    assert _found(None, TEXT, {"sequence": 10}) == [
        ("1x8", {"batch": 1, "sequence": 8}),  # two below: some models count positions from the padding
        ("8x8", {"batch": 8, "sequence": 8}),
    ]


def test_a_decoder_is_as_long_as_its_own_limit() -> None:
    assert _found(None, PAIRS, {"decoder_sequence": 20})[-1][1] == {"batch": 8, "sequence": 128, "decoder_sequence": 18}


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        (PICTURE, [("batch 1", {"batch": 1}), ("batch 4", {"batch": 4})]),
        (SOUND, [("batch 1", {"samples": 16000, "batch": 1}), ("batch 4", {"samples": 16000, "batch": 4})]),
        (FIXED, [("as traced", {})]),
    ],
)
def test_other_models_have_defaults_too(specs: tuple[TensorSpec, ...], expected: object) -> None:
    assert _found(None, specs) == expected


def test_every_batch_of_a_default_is_the_same() -> None:
    assert {name: lengths["media_batch"] for name, lengths in _found(None, BOTH)} == {"1x16": 1, "1x128": 1, "8x128": 8}


def test_a_pair_is_batch_and_sequence() -> None:
    assert _found([(2, 40), [4, 9]], TEXT) == [
        ("2x40", {"batch": 2, "sequence": 40}),
        ("4x9", {"batch": 4, "sequence": 9}),
    ]
    assert _found([(2, 40)], PAIRS) == [("2x40", {"batch": 2, "sequence": 40, "decoder_sequence": 40})]


@pytest.mark.parametrize(
    ("shapes", "specs", "items"), [([(8, 16)], TEXT, 8), ([{"sequence": 5}], TEXT, 1), ([{"media_batch": 3}], BOTH, 3)]
)
def test_a_shape_knows_how_many_items_it_holds(shapes: Any, specs: tuple[TensorSpec, ...], items: int) -> None:
    assert [shape.items for shape in workload(shapes, specs)] == [items]


def test_a_mapping_names_axes() -> None:
    assert _found([{"samples": 800, "batch": 3}], SOUND) == [("samples=800 batch=3", {"samples": 800, "batch": 3})]


REFUSED: list[tuple[Any, tuple[TensorSpec, ...], str]] = [
    ([], TEXT, "there are none"),
    ([(10**9, 512)], TEXT, "the inputs at 1000000000x512 have .* values"),
    ([{"batch": 10**10}], PICTURE, "the machine has"),
    ([(1, 2, 3)], TEXT, "no .batch, sequence. pair"),
    ([(1, 16)], PICTURE, "no .batch, sequence. pair"),
    ([{"height": 3}], TEXT, "no varying axis 'height'"),
    ([{"batch": 3}], FIXED, "no varying axis 'batch'"),
    ([(1, 513)], TEXT, "sequence 513 is out of range"),
    ([{"sequence": 513}], TEXT, "sequence 513 is out of range"),
    ([(0, 16)], TEXT, "batch 0 is out of range"),
    ([{"batch": -1}], TEXT, "batch -1 is out of range"),
    ([(1, 16), (1, 0)], TEXT, "sequence 0 is out of range"),
]


@pytest.mark.parametrize(("shapes", "specs", "why"), REFUSED, ids=[why for _, _, why in REFUSED])
def test_what_the_model_cannot_take_is_refused(shapes: Any, specs: tuple[TensorSpec, ...], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        workload(shapes, specs, Limits(least={}, greatest={"sequence": 512}))


def test_the_refusal_names_the_axes_that_there_are() -> None:
    with pytest.raises(OptionError) as caught:
        workload([{"height": 3}], TEXT)
    assert "batch, sequence" in caught.value.remedy
