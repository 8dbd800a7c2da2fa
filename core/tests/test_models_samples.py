"""Drawn inputs follow the layout at any lengths: nothing fully masked, nothing out of vocabulary, nothing random."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_core.models.inputs.layouts import InputLayout, Layout
from optimum_core.models.inputs.samples import Case, Padding, draw
from optimum_core.types.arrays import Arrays

PAD, BOS, EOS = 3, 5, 7
TYPES = InputLayout(name="token_type_ids", kind="types", axes=("batch", "sequence"), dtype="int64")
LAYOUT = Layout(
    inputs=(
        InputLayout(name="input_ids", kind="ids", axes=("batch", "sequence"), dtype="int64"),
        InputLayout(name="attention_mask", kind="mask", axes=("batch", "sequence"), dtype="int64"),
        TYPES,
        InputLayout(name="bbox", kind="boxes", axes=("batch", "sequence", 4), dtype="int64"),
        InputLayout(name="pixel_values", kind="image", axes=("media_batch", 3, "height", 8)),
    ),
    lengths={"batch": 2, "sequence": 13, "media_batch": 4, "height": 16},
    vocabulary={"input_ids": 40, "token_type_ids": 2},
    special={"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS},
)
SOUND = Layout(
    inputs=(
        InputLayout(name="input_values", kind="waveform", axes=("batch", "samples")),
        InputLayout(name="attention_mask", kind="mask", axes=("batch", "samples"), dtype="int64"),
    ),
    lengths={"batch": 2, "samples": 480},
)
CHOICES = Layout(
    inputs=(
        InputLayout(name="input_ids", kind="ids", axes=("batch", "choices", "sequence"), dtype="int64"),
        InputLayout(name="attention_mask", kind="mask", axes=("batch", "choices", "sequence"), dtype="int64"),
    ),
    lengths={"batch": 2, "choices": 3, "sequence": 9},
    special={"pad_token_id": PAD},
)

paddings = st.sampled_from(("none", "right", "left"))
small = st.integers(1, 6)


@st.composite
def cases(pick: Any) -> Case:
    lengths = {"batch": pick(small), "sequence": pick(st.integers(1, 40)), "height": pick(small)}
    kept = pick(st.sets(st.sampled_from(sorted(lengths))))
    return Case(
        name="any",
        lengths={axis: lengths[axis] for axis in sorted(kept)},
        padding=pick(paddings),
        seed=pick(st.integers(0, 2**31)),
    )


def _drawn(case: Case) -> tuple[Arrays, dict[str, int]]:
    return draw(LAYOUT, case), {**LAYOUT.lengths, **case.lengths}


@given(cases())
def test_shapes_and_types_are_those_asked_for(case: Case) -> None:
    arrays, lengths = _drawn(case)
    assert list(arrays) == [item.name for item in LAYOUT.inputs]
    for item in LAYOUT.inputs:
        expected = tuple(axis if isinstance(axis, int) else lengths[axis] for axis in item.axes)
        assert (arrays[item.name].shape, arrays[item.name].dtype.name) == (expected, item.dtype)
        assert arrays[item.name].flags.c_contiguous


@given(cases())
def test_no_row_is_masked_as_a_whole_and_padding_is_on_one_side(case: Case) -> None:
    arrays, lengths = _drawn(case)
    mask = arrays["attention_mask"]
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum(axis=1).min() >= 1
    if case.padding == "none":
        assert mask.all()
    else:
        steps = np.diff(mask, axis=1)
        assert (steps <= 0).all() if case.padding == "right" else (steps >= 0).all()
        alone = lengths["batch"] == 1 and lengths["sequence"] > 2
        assert bool(mask[0].all()) is not alone
    if lengths["batch"] > 1 and case.padding != "none" and lengths["sequence"] > 2:
        assert not mask[1:].all()


@given(cases())
def test_ids_are_of_the_vocabulary_and_padding_where_masked(case: Case) -> None:
    arrays, _ = _drawn(case)
    ids, mask = arrays["input_ids"], arrays["attention_mask"].astype(bool)
    assert ((ids >= 0) & (ids < 40)).all()
    assert (ids[~mask] == PAD).all()
    assert (ids[mask] != PAD).all()
    for row, valid in zip(ids, mask, strict=True):
        if valid.sum() > 2:
            assert (row[valid][0], row[valid][-1]) == (BOS, EOS)
            assert not np.isin(row[valid][1:-1], (PAD, BOS, EOS)).any()


@given(cases())
def test_segments_and_boxes_make_sense(case: Case) -> None:
    arrays, _ = _drawn(case)
    types, mask, boxes = arrays["token_type_ids"], arrays["attention_mask"], arrays["bbox"]
    assert set(np.unique(types)) <= {0, 1}
    assert not types[mask == 0].any()
    assert ((boxes >= 0) & (boxes < 1000)).all()
    assert (boxes[..., 0] <= boxes[..., 2]).all()
    assert (boxes[..., 1] <= boxes[..., 3]).all()


@given(cases())
def test_the_same_seed_gives_the_same_values_and_another_gives_others(case: Case) -> None:
    arrays, _ = _drawn(case)
    again, _ = _drawn(case)
    for name, array in arrays.items():
        assert np.array_equal(array, again[name])
    other = draw(LAYOUT, Case(name="other", lengths=case.lengths, padding=case.padding, seed=case.seed + 1))
    assert not np.array_equal(other["pixel_values"], arrays["pixel_values"])


@given(batch=small, samples=st.integers(3, 900), padding=paddings)
@settings(max_examples=40)
def test_sounds_are_masked_as_texts_are(batch: int, samples: int, padding: Padding) -> None:
    arrays = draw(SOUND, Case(name="any", lengths={"batch": batch, "samples": samples}, padding=padding))
    assert arrays["input_values"].shape == arrays["attention_mask"].shape == (batch, samples)
    assert arrays["attention_mask"].sum(axis=1).min() >= samples // 2
    assert arrays["attention_mask"].all() == (padding == "none")


@given(batch=small, choices=small, sequence=st.integers(1, 20), padding=paddings)
@settings(max_examples=40)
def test_choices_of_one_question_are_padded_alike(batch: int, choices: int, sequence: int, padding: Padding) -> None:
    lengths = {"batch": batch, "choices": choices, "sequence": sequence}
    arrays = draw(CHOICES, Case(name="any", lengths=lengths, padding=padding))
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    assert ids.shape == mask.shape == (batch, choices, sequence)
    assert mask.sum(axis=-1).min() >= 1
    assert (mask == mask[:, :1]).all()
    assert (ids[mask == 0] == PAD).all()
    assert mask.flags.c_contiguous


def test_a_single_token_type_is_never_exceeded() -> None:
    layout = Layout(inputs=(TYPES,), lengths=LAYOUT.lengths, vocabulary={"token_type_ids": 1})
    assert not draw(layout, Case(name="any"))["token_type_ids"].any()


def test_a_vocabulary_of_special_ids_alone_still_gives_ids() -> None:
    layout = Layout(
        inputs=LAYOUT.inputs[:1],
        lengths=LAYOUT.lengths,
        vocabulary={"input_ids": 2},
        special={"pad_token_id": 0, "eos_token_id": 1},
    )
    assert set(np.unique(draw(layout, Case(name="any", padding="none"))["input_ids"])) <= {0, 1}


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    lengths=st.tuples(small, st.integers(1, 20)),
    dtype=st.sampled_from(("float32", "float64", "int64", "int32", "bool")),
)
@settings(max_examples=60)
def test_samples_of_the_user_are_drawn_at_any_size(
    shape: tuple[int, int], lengths: tuple[int, int], dtype: str
) -> None:
    sample = np.arange(shape[0] * shape[1]).reshape(shape).astype(dtype)
    item = InputLayout(name="x", kind="given", axes=("batch", "axis"), dtype=dtype)
    layout = Layout(inputs=(item,), lengths={"batch": 2, "axis": 3})
    case = Case(name="any", lengths={"batch": lengths[0], "axis": lengths[1]})
    made = draw(layout, case, {"x": sample})["x"]
    assert (made.shape, made.dtype.name) == (lengths, dtype)
    if not dtype.startswith("float"):
        assert np.isin(made, sample).all()


def test_a_scalar_sample_stays_a_scalar() -> None:
    item = InputLayout(name="x", kind="given", axes=(), dtype="float32")
    made = draw(Layout(inputs=(item,), lengths={}), Case(name="any"), {"x": np.float32(2.0)})["x"]
    assert made.shape == ()
