"""Bounds of values and lengths are found with eager, and so is the value of a mask that is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    FlaubertConfig,
    FlaubertModel,
    FSMTConfig,
    FSMTModel,
    LayoutLMConfig,
    LayoutLMModel,
    M2M100Config,
    M2M100Model,
    RobertaConfig,
    RobertaModel,
    SwinConfig,
    SwinForImageClassification,
    XLMConfig,
    XLMForSequenceClassification,
)

from optimum_core.errors import InputError
from optimum_core.models.eager.calls import eager_outputs, fixed_arguments
from optimum_core.models.inputs.samples import Case
from optimum_core.models.signatures.axes import lengths_beside
from optimum_core.models.signatures.signature import ModelSignature, describe, limited
from optimum_core.models.sources.source import open_source
from optimum_core.runtime.call_inputs import InputChecker
from optimum_core.types import AxisRange, TensorSpec

TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
XLM = {"vocab_size": 99, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64}
MARIAN = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "pad_token_id": 1,
}


def _sharp(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.eval().parameters():
            if parameter.ndim >= 2:
                parameter.mul_(6)
    return model


def _values(signature: ModelSignature) -> dict[str, tuple[int | None, int | None]]:
    return {spec.name: (spec.least, spec.greatest) for spec in signature.inputs}


def test_ids_and_types_are_bounded_by_their_tables(described: Callable[[str], tuple[Any, ModelSignature]]) -> None:
    signature = described("bert")[1]
    assert _values(signature) == {"input_ids": (0, 119), "token_type_ids": (0, 1), "attention_mask": (None, None)}
    assert signature.ranges["sequence"] == AxisRange(greatest=64, why="the model has 64 positions")
    assert set(_values(described("t5")[1]).values()) == {(0, 119), (None, None)}
    assert _values(described("resnet")[1]) == {"pixel_values": (None, None)}
    assert described("bart")[1].ranges["decoder_sequence"].greatest == 64
    assert described("whisper")[1].ranges["decoder_sequence"].greatest == 40


def test_boxes_are_bounded_by_the_rows_of_their_table() -> None:
    model = LayoutLMModel(LayoutLMConfig(**TINY, max_position_embeddings=64, max_2d_position_embeddings=1024))
    signature = describe(model.eval(), name="layoutlm")
    assert _values(signature)["bbox"] == (0, 1023)
    assert {spec.name: spec.sides for spec in signature.inputs}["bbox"] == (0, 1023)
    boxes = np.array([[[3, 5, 60, 9]] * 4])
    checker = InputChecker("it", signature.inputs)
    checker.bind((), {"input_ids": boxes[..., 0], "bbox": boxes})
    for crossed in ([60, 5, 3, 9], [3, 9, 60, 5]):
        boxes[0, 2] = crossed
        with pytest.raises(IndexError):
            eager_outputs(model, {"input_ids": boxes[..., 0] * 0, "bbox": boxes})
        with pytest.raises(InputError, match=r"from 0 to 1023, got -"):
            checker.bind((), {"input_ids": boxes[..., 0] * 0, "bbox": boxes})


@pytest.mark.parametrize(("lookup", "sides"), [(lambda side: side.abs(), None), (lambda side: side, (0, 20))])
def test_widths_of_boxes_are_bounded_where_eager_looks_them_up(
    lookup: Callable[[Any], Any], sides: tuple[int, int] | None
) -> None:
    class Boxes(torch.nn.Module):
        config = type("Config", (), {})()

        def __init__(self) -> None:
            super().__init__()
            self.corners, self.widths = torch.nn.Embedding(32, 8), torch.nn.Embedding(21 if sides else 32, 8)

        def forward(self, bbox: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.corners(bbox).sum(-2) + self.widths(lookup(bbox[..., 2] - bbox[..., 0]))
            return made

    samples = {"bbox": torch.tensor([[[1, 2, 9, 8], [3, 3, 4, 20]]])}
    (spec,) = describe(Boxes().eval(), name="boxes", samples=samples).inputs
    assert (spec.least, spec.greatest, spec.sides) == (0, 31, sides)


def test_positions_that_padding_takes_are_no_tokens() -> None:
    model = RobertaModel(RobertaConfig(**TINY, max_position_embeddings=74, pad_token_id=1)).eval()
    assert describe(model, name="roberta").ranges["sequence"].greatest == 72


def test_a_table_that_eager_makes_longer_is_no_limit() -> None:
    model = M2M100Model(M2M100Config(vocab_size=99, max_position_embeddings=32, **MARIAN)).eval()
    signature = describe(model, name="m2m")
    assert "sequence" not in signature.ranges
    assert {32, 48} <= set(signature.further["sequence"]), "on both sides of what the configuration says"


class Plain(torch.nn.Module):
    """Tables of its own, one of them no `Embedding`; positions as values."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(50, 8)
        self.places = torch.nn.Parameter(torch.randn(24, 8))

    def forward(self, tokens: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.words(tokens) + self.places[where] + self.places[: tokens.shape[1]]
        return made


@pytest.mark.parametrize("length", [9, 20, 24])
def test_a_module_of_any_kind_has_bounds_too(length: int) -> None:
    samples = {"tokens": torch.randint(0, 50, (2, length)), "where": torch.randint(0, 24, (2, length))}
    signature = describe(Plain().eval(), name="plain", samples=samples)
    assert _values(signature) == {"tokens": (0, 49), "where": (-24, 23)}, "a row may be counted from the end"
    (axis,) = (axis for axis in signature.axes if axis != "batch")
    assert signature.ranges[axis].greatest == 24
    assert all(length <= 24 for length in (*signature.beside(axis), *signature.further.get(axis, ())))


class Picked(torch.nn.Module):
    """Reads an input at places that the caller states, in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "column": lambda: x[:, place],
            "gather": lambda: x.gather(1, place),
            "after the first": lambda: x[:, 1:].index_select(1, place),
            "rows": lambda: torch.nn.functional.embedding(place, x),
        }
        return ways[self.way]()


@pytest.mark.parametrize(
    ("way", "place", "least", "greatest"),
    [
        ("column", torch.tensor(2), -9, 8),
        ("gather", torch.tensor([[0, 1], [2, 3], [1, 1]]), 0, 8),
        ("after the first", torch.tensor([0, 2, 1]), 0, 7),
        ("rows", torch.tensor([0, 2]), 0, 2),
    ],
)
def test_places_in_another_input_are_bounded_by_its_length(
    way: str, place: torch.Tensor, least: int, greatest: int
) -> None:
    signature = describe(Picked(way).eval(), name="picked", samples={"x": torch.randn(3, 9), "place": place})
    spec = signature.inputs[1]
    at = spec.at(signature.layout.lengths)
    assert (at.least, at.greatest) == (least, greatest)
    if way != "rows":
        (axis,) = (axis for axis in signature.axes if axis.startswith("axis1_9"))
        assert spec.greatest_by == (axis, greatest - 9)
        assert spec.at({axis: 20}).greatest == greatest + 11
        assert signature.pinned(axis, 12).inputs[1].greatest == greatest + 3


@pytest.mark.parametrize(
    ("pick", "greatest", "least"),
    [
        (lambda x, place: x[:, ::2][:, place], lambda n: (n + 1) // 2 - 1, lambda n: -((n + 1) // 2)),
        (lambda x, place: x[:, 1::2][:, place], lambda n: n // 2 - 1, lambda n: -(n // 2)),
        (lambda x, place: x[:, 3 * place], lambda n: (n - 1) // 3, lambda n: -(n // 3)),
        (lambda x, place: torch.cat([x, x, x[:, :1]], 1)[:, place], lambda n: 2 * n, lambda n: -2 * n - 1),
        (lambda x, place: x[:, place + 1], lambda n: n - 2, lambda n: -n - 1),
    ],
)
def test_places_are_bounded_by_a_multiple_or_a_part_of_a_length(
    pick: Callable[..., torch.Tensor], greatest: Callable[[int], int], least: Callable[[int], int]
) -> None:
    class Pick(torch.nn.Module):
        def forward(self, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
            return pick(x, place)

    samples = {"x": torch.randn(2, 13), "place": torch.tensor([3, 0, 2])}
    signature = describe(Pick().eval(), name="pick", samples=samples)
    (axis,) = (axis for axis in signature.axes if axis.startswith("axis1_13"))
    for length in (4, 7, 13, 14, 30, 31, 200):
        spec = signature.inputs[1].at({axis: length})
        assert (spec.least, spec.greatest) == (least(length), greatest(length)), length


def test_places_do_not_fix_the_axis_that_they_are_in() -> None:
    """The last position of the samples is none of a shorter call, whose places are nearer to the start."""
    samples = {"x": torch.randn(2, 9), "place": torch.tensor([8, 0, 4])}
    signature = describe(Picked("column").eval(), name="picked", samples=samples)
    assert signature.fixed == ()
    (axis,) = (axis for axis in signature.axes if axis.startswith("axis1_9"))
    for length in (1, 5, 9, 33):
        drawn = signature.draw(Case(name="length", lengths={axis: length}))
        assert drawn["x"].shape[1] == length
        assert drawn["place"].max() == (8 if length >= 9 else 8 * length // 9)


def test_unsigned_numbers_are_no_less_than_zero() -> None:
    class Lookup(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(40, 3)

        def forward(self, places: torch.Tensor) -> Any:
            return self.table(places.long())

    samples = {"places": torch.randint(0, 40, (2, 6), dtype=torch.uint8)}
    assert _values(describe(Lookup().eval(), name="lookup", samples=samples)) == {"places": (0, 39)}


def test_an_axis_that_is_limited_has_no_cases_beyond(described: Callable[[str], tuple[Any, ModelSignature]]) -> None:
    signature = limited(described("bert")[1], "sequence", 20, "it was not right beyond", least=2)
    reason = "it was not right beyond"
    assert signature.ranges["sequence"] == AxisRange(least=2, greatest=20, why=reason, why_least=reason)
    assert signature.beside("sequence") == (20, 10)
    assert all(2 <= length <= 20 for length in signature.further["sequence"])
    assert limited(signature, "sequence", 40, "again").ranges["sequence"].greatest == 20
    pinned = signature.pinned("sequence", 8)
    assert "sequence" not in pinned.ranges
    assert [axis.note for axis in pinned.fixed if axis not in signature.fixed] == [
        "sequence is fixed at 8: what was built agrees with the eager model at no other length that was tried"
    ]


@pytest.mark.parametrize(
    ("model_class", "config"), [(FlaubertModel, FlaubertConfig), (XLMForSequenceClassification, XLMConfig)]
)
def test_a_mask_that_is_left_out_is_made_as_eager_makes_it(model_class: Any, config: Any) -> None:
    torch.manual_seed(0)
    model = _sharp(model_class(config(**XLM)))
    signature = describe(model, name="xlm")
    mask = next(spec for spec in signature.inputs if spec.name == "attention_mask")
    assert (mask.default, mask.pad) == ("leading", 2)
    ids = np.random.default_rng(0).integers(5, 99, (3, 12))
    ids[1, 7:] = ids[2, :4] = 2  # padding at the end, and at the start
    filled, _ = InputChecker("it", signature.inputs).bind((), {"input_ids": ids})
    want = eager_outputs(model, {"input_ids": ids})
    for name, value in eager_outputs(model, filled).items():
        np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-5)


def test_masks_that_are_made_of_ids() -> None:
    ids = np.array([[5, 0, 6, 0], [0, 0, 7, 8]])
    spec = TensorSpec(name="decoder_attention_mask", dtype="int64", shape=("batch", "s"), default="tokens", pad=0)
    assert spec.made_of == "decoder_input_ids"
    assert spec.left_out(np.zeros((2, 4)), ids).tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]
    leading = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "s"), default="leading", pad=0)
    assert leading.left_out(np.zeros((2, 4)), ids).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    ones = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "s"), default="ones")
    assert ones.left_out(np.zeros((1, 2))).tolist() == [[1, 1]]


def test_the_reference_is_called_as_its_user_calls_it() -> None:
    torch.manual_seed(0)
    config = FSMTConfig(langs=["en", "de"], src_vocab_size=99, tgt_vocab_size=99, **MARIAN)
    model = _sharp(FSMTModel(config))
    source = open_source(model)
    signature = describe(source.module(), name="fsmt")
    assert fixed_arguments(source.module()) == {"return_dict": True}, "an exporter's copy knows what another learned"
    inputs = signature.draw(Case(name="any", padding="none"))
    ids = {name: torch.as_tensor(inputs[name]) for name in ("input_ids", "decoder_input_ids")}
    with torch.no_grad():
        want = model(**ids).last_hidden_state.numpy()
    np.testing.assert_allclose(eager_outputs(source.module(), ids)["last_hidden_state"], want, atol=1e-5)


def test_a_configuration_that_asks_for_tuples_has_outputs_with_names(tiny: Callable[[str], Any]) -> None:
    model = tiny("bert")
    model.config.return_dict = False
    assert [spec.name for spec in describe(model, name="bert").outputs] == ["logits"]


class Square(torch.nn.Module):
    """A picture whose edges are to be equal, and even."""

    main_input_name = "pixel_values"

    def __init__(self, needs: Callable[[int, int], bool]) -> None:
        super().__init__()
        self.config = type("Config", (), {"image_size": 64, "num_channels": 3})()
        self.needs = needs

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.needs(*pixel_values.shape[-2:]):
            raise ValueError("not this size")
        return {"logits": pixel_values.mean(dim=(1, 2, 3))[:, None]}


@pytest.mark.parametrize(
    ("needs", "shape"),
    [
        (lambda height, width: height == width, ("batch", 3, "height", "height")),
        (lambda height, width: height % 32 == 0 and width % 32 == 0, ("batch", 3, 64, 64)),
        (lambda height, width: height >= 64, ("batch", 3, 64, "width")),
        (lambda height, width: not (height != width and height > 90), ("batch", 3, "height", "height")),
        (lambda height, width: True, ("batch", 3, "height", "width")),
    ],
)
def test_a_picture_has_its_configured_size_or_equal_edges_where_eager_refuses_others(
    needs: Callable[[int, int], bool], shape: tuple[int | str, ...]
) -> None:
    signature = describe(Square(needs).eval(), name="square")
    assert signature.inputs[0].shape == shape
    assert (signature.configured["height"], signature.configured["width"]) == (64, 64)


def test_swin_that_refuses_smaller_pictures_is_fixed() -> None:
    config = SwinConfig(image_size=224, window_size=7, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2] * 4)
    signature = describe(SwinForImageClassification(config).eval(), name="swin")
    assert signature.inputs[0].shape == ("batch", 3, 224, 224)
    assert lengths_beside(signature.layout, "batch") == (3, 1)


def test_an_axis_of_which_eager_takes_some_lengths_alone_is_fixed_and_named() -> None:
    class Even(torch.nn.Module):
        """Takes pictures of any height, as long as a grid of eight divides it."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] > 7 and x.shape[1] % 8:
                raise ValueError("off the grid")
            made: torch.Tensor = self.linear(x)
            return made

    signature = describe(Even(), name="m", samples={"x": torch.randn(2, 8, 4)})
    assert signature.inputs[0].shape == ("batch", 8, 4)
    assert [(axis.place, axis.length) for axis in signature.fixed] == [("axis 1 of input 'x'", 8)]
    assert "some other lengths" in signature.fixed[0].why


@pytest.mark.parametrize("read", [torch.Tensor.tolist, lambda sizes: map(int, sizes)])
def test_sizes_that_a_model_reads_are_not_tried_as_places_in_its_table(read: Callable[[torch.Tensor], Any]) -> None:
    """Pictures of as many patches as there are words fill the memory, and the process is killed."""
    areas: list[int] = []

    class Patches(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(60_000, 2)

        def forward(self, ids: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
            height, width = map(int, read(sizes))
            areas.append(height * width)
            if areas[-1] > 2**28:
                raise MemoryError(f"{height} x {width}")
            made: torch.Tensor = self.table(ids).sum(1) + torch.ones(height, width).mean()
            return made

    samples = {"ids": torch.randint(0, 60_000, (2, 6)), "sizes": torch.tensor([4, 6])}
    signature = describe(Patches().eval(), name="patches", samples=samples)
    assert max(areas) < 2**28
    assert _values(signature)["ids"] == (0, 59_999)
