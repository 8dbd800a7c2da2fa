"""Many items at once give what they give one by one, in their order, however they were batched."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BatchEncoding, ViTImageProcessor, Wav2Vec2FeatureExtractor
from transformers.image_utils import load_image

from optimum_core import AcceleratedModel, accelerate, load
from optimum_core.errors import InputError, UnavailableError, UnprovedLengthWarning
from optimum_core.hookspecs import hookimpl
from optimum_core.models.data.texts import read_texts
from optimum_core.plugins import manager
from optimum_core.runtime.call_outputs import Answer
from optimum_core.runtime.items import ItemEncoder
from optimum_core.runtime.mapping import Mapper
from optimum_core.runtime.opening import open_model
from optimum_core.types import AxisRange, TensorSpec

IDS = TensorSpec(name="input_ids", dtype="int64", shape=("batch", "sequence"))
MASK = TensorSpec(name="attention_mask", dtype="int64", shape=("batch", "sequence"), default="ones")
POOLED = TensorSpec(name="pooled", dtype="int64", shape=("batch", 2))
TOKENS = TensorSpec(name="tokens", dtype="int64", shape=("batch", "sequence"))
PAD = 9


class Recorder:
    """A model that sums what its mask lets through, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, np.ndarray[Any, Any]]] = []
        self._lock = threading.Lock()

    def __call__(self, arrays: dict[str, Any]) -> Mapping[str, Any]:
        with self._lock:
            self.calls.append(arrays)
        ids = arrays["input_ids"]
        seen = ids * arrays.get("attention_mask", np.ones_like(ids))
        return {"pooled": np.stack([seen.sum(1), (seen > 0).sum(1)], axis=1), "tokens": 2 * ids}

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [call["input_ids"].shape for call in self.calls]


def _mapped(
    lengths: Sequence[int],
    size: int,
    *,
    inputs: Sequence[TensorSpec] = (IDS, MASK),
    outputs: Sequence[TensorSpec] = (POOLED, TOKENS),
    streams: int = 1,
) -> tuple[Answer, Recorder]:
    model = Recorder()
    done: list[int] = []
    mapper = Mapper("model 'm'", model, inputs, outputs, pad_id=PAD, streams=streams)
    answer = mapper.map([{"input_ids": _row(n)} for n in lengths], size, done.append)
    assert sum(done) == len(lengths)
    return answer, model


def _row(length: int) -> list[int]:
    return [length * 100 + position for position in range(1, length + 1)]


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 50), st.sampled_from([1, 3]))
@settings(deadline=None, max_examples=60)
def test_results_are_in_the_order_of_the_items(lengths: list[int], size: int, streams: int) -> None:
    answer, model = _mapped(lengths, size, streams=streams)
    assert answer.pooled.tolist() == [[sum(_row(n)), n] for n in lengths]
    assert [row.tolist() for row in answer.tokens] == [[2 * value for value in _row(n)] for n in lengths]
    assert all(len(call["input_ids"]) <= size for call in model.calls)
    assert len(model.calls) == -(-len(lengths) // size)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_nothing_is_padded_beyond_its_neighbours(lengths: list[int], size: int) -> None:
    _, model = _mapped(lengths, size)
    in_order = sorted(lengths, reverse=True)
    longest = [in_order[start] for start in range(0, len(in_order), size)]
    assert [shape[1] for shape in model.shapes] == longest


def test_padding_is_masked_and_filled_with_the_models_own_token() -> None:
    _, model = _mapped([3, 1], 2)
    assert model.calls[0]["input_ids"].tolist() == [[301, 302, 303], [101, PAD, PAD]]
    assert model.calls[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_without_a_mask_only_equals_share_a_call(lengths: list[int], size: int) -> None:
    answer, model = _mapped(lengths, size, inputs=(IDS,))
    assert answer.pooled[:, 0].tolist() == [sum(_row(n)) for n in lengths]
    assert not any((call["input_ids"] == PAD).any() for call in model.calls)
    assert len(model.calls) == sum(-(-lengths.count(n) // size) for n in set(lengths))


def test_a_mask_of_its_own_is_kept() -> None:
    model = Recorder()
    mapper = Mapper("m", model, (IDS, MASK), (POOLED,))
    items = [{"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, {"input_ids": [8], "attention_mask": [1]}]
    assert mapper.map(items, 4, lambda done: None).pooled.tolist() == [[12, 2], [8, 1]]
    assert len(model.calls) == 1


def test_items_with_and_without_a_mask_may_be_mixed() -> None:
    model = Recorder()
    mapper = Mapper("m", model, (IDS, MASK), (POOLED,))
    items = [{"input_ids": [5, 6], "attention_mask": [1, 0]}, {"input_ids": [8]}, {"input_ids": [1, 2, 3]}]
    assert mapper.map(items, 4, lambda done: None).pooled.tolist() == [[5, 1], [8, 1], [6, 3]]


def test_nothing_gives_nothing_of_the_right_shape() -> None:
    answer, model = _mapped([], 4)
    assert (answer.pooled.shape, answer.pooled.dtype, answer.tokens, model.calls) == ((0, 2), np.int64, [], [])


def test_a_batch_that_is_fixed_at_one_item() -> None:
    fixed = TensorSpec(name="input_ids", dtype="int64", shape=(1, "sequence"))
    answer, model = _mapped([2, 2, 3], 8, inputs=(fixed,))
    assert sorted(model.shapes) == [(1, 2), (1, 2), (1, 3)]
    assert answer.pooled[:, 1].tolist() == [2, 2, 3]


@pytest.mark.parametrize("shape", [("batch", "media_batch"), ("sequence", 2), ()])
def test_an_output_that_is_not_made_item_by_item_is_refused(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(InputError, match=r"'mixed' is not made item by item"):
        _mapped([1, 2], 2, outputs=(TensorSpec(name="mixed", dtype="float32", shape=shape),))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"input_ids": [1], "labels": 3}, r"'labels', which is no input(.|\n)*input_ids, attention_mask"),
        ({"input_ids": [[1, 2]]}, r"'input_ids' has 2 axes(.|\n)*pass 1"),
        ({"input_ids": 1}, "has 0 axes"),
        ({"input_ids": [[1], [2, 3]]}, "is no array"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, r"differ in length: \[1, 2\]"),
        (5, "an item is int"),
    ],
)
def test_items_that_do_not_fit(item: Any, said: str) -> None:
    model = Recorder()
    with pytest.raises(InputError, match=said):
        Mapper("m", model, (IDS, MASK), (POOLED,)).map([{"input_ids": [1]}, item], 2, lambda done: None)
    assert model.calls == []


# On a real model.


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of whole words with a special token at either end, which by itself cuts and pads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, **{f"w{n}": n for n in range(4, 110)}}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=30)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 16, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


Make = Callable[[str], AcceleratedModel]


@pytest.fixture(scope="module")
def fast_of(
    tiny: Callable[[str], Any], tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Make]:
    from transformers import AutoTokenizer

    made: dict[str, AcceleratedModel] = {}
    cache = tmp_path_factory.mktemp("cache")

    def make(kind: str) -> AcceleratedModel:
        if kind not in made:
            settings: dict[str, Any] = {"shapes": ({"batch": 1},), "budget": 0, "cache_dir": cache}
            if kind in ("bert", "distilbert"):
                settings["processor"] = AutoTokenizer.from_pretrained(tokenizer_file)
            made[kind] = accelerate(tiny(kind), target="ort", level="all", **settings)
        return made[kind]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield make
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fast(fast_of: Make) -> AcceleratedModel:
    return fast_of("bert")


TEXTS = [" ".join(f"w{4 + (3 * n + k) % 100}" for k in range(1 + (7 * n) % 13)) for n in range(17)]


def _items(number: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [{"input_ids": generator.integers(4, 110, 2 + (5 * n) % 11)} for n in range(number)]


def _one_by_one(fast: AcceleratedModel, items: Sequence[Mapping[str, Any]]) -> list[np.ndarray[Any, Any]]:
    return [fast(**{name: np.asarray(value)[None] for name, value in item.items()}).logits[0] for item in items]


@pytest.mark.parametrize("size", [1, 4, 100])
def test_the_same_as_one_by_one(size: int, fast: AcceleratedModel) -> None:
    items = _items(13)
    got = fast.map(items, batch_size=size).logits
    np.testing.assert_allclose(got, np.stack(_one_by_one(fast, items)), rtol=1e-3, atol=1e-4)


def test_a_value_for_every_token_comes_without_padding(fast_of: Make) -> None:
    model, items = fast_of("distilbert"), _items(9)
    got = model.map(items, batch_size=4).logits
    assert isinstance(got, list)
    for mine, alone, item in zip(got, _one_by_one(model, items), items, strict=True):
        assert mine.shape == (len(item["input_ids"]), 5)
        np.testing.assert_allclose(mine, alone, rtol=1e-3, atol=1e-4)


def test_pictures(fast_of: Make) -> None:
    model = fast_of("vit")
    pixels = np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)
    got = model.map([{"pixel_values": picture} for picture in pixels], batch_size=2).logits
    np.testing.assert_allclose(got, model(pixel_values=pixels).logits, rtol=1e-3, atol=1e-4)


def _drawn(count: int) -> list[Any]:
    rng = np.random.default_rng(4)
    return [Image.fromarray(rng.integers(0, 255, (40 + n, 50, 3), dtype=np.uint8)) for n in range(count)]


def test_pictures_through_a_processor(fast_of: Make) -> None:
    model, processor = fast_of("vit"), ViTImageProcessor(size={"height": 32, "width": 32})
    pictures = _drawn(9)  # more than one window holds
    want = model(**processor(pictures, return_tensors="np")).logits
    for form in (pictures, iter(pictures), [np.asarray(picture) for picture in pictures]):
        got = model.map(form, batch_size=2, processor=processor).logits
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_sounds_through_the_processor_beside_the_model(fast_of: Make) -> None:
    model = fast_of("wav2vec2")
    processor = Wav2Vec2FeatureExtractor(sampling_rate=16000)
    processor.save_pretrained(model.directory)
    sounds = [np.sin(np.arange(length) / 9).astype(np.float32) for length in (900, 1600, 900)]
    got = model.map([{"array": sound, "sampling_rate": 16000} for sound in sounds]).logits
    assert len(got) == 3
    for mine, sound in zip(got, sounds, strict=True):
        want = model(**processor(sound, sampling_rate=16000, return_tensors="np")).logits[0]
        np.testing.assert_allclose(mine, want, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match=r"item 2 has 8000 samples a second, and the model takes 16000(.|\n)*resample"):
        model.map([sounds[0], {"array": sounds[0], "sampling_rate": 8000}])
    with pytest.raises(UnavailableError, match=r"no processor of pictures lies beside it(.|\n)*processor="):
        model.map(_drawn(1))


def test_pictures_of_any_form_are_the_same_colours(fast_of: Make) -> None:
    """As transformers' pipelines convert them; at sizes whose sides could be taken for channels too."""
    model, processor = fast_of("vit"), ViTImageProcessor(size={"height": 32, "width": 32})
    whole = _drawn(1)[0]
    pictures = [whole.convert(mode) for mode in ("L", "RGBA", "P", "CMYK", "1", "LA")]
    pictures += [whole.crop((0, 0, width, height)) for width, height in ((1, 1), (3, 9), (9, 3), (3, 3), (9, 4))]
    colours = [np.asarray(picture.convert("RGB")) for picture in pictures]
    want = model(**processor(colours, input_data_format="channels_last", return_tensors="np")).logits
    arrays = [np.asarray(picture) for picture in (*pictures[:2], *pictures[6:])]
    of_arrays = [*want[:2], *want[6:]]
    rows = [{"image": picture, "label": 1} for picture in pictures]
    one_channel = [arrays[0][..., None], torch.tensor(arrays[1]), *arrays[2:]]
    for given_, expected in ((pictures, want), (rows, want), (arrays, of_arrays), (one_channel, of_arrays)):
        got = model.map(given_, processor=processor).logits
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_pictures_of_a_turned_camera_are_upright(fast_of: Make, tmp_path: Path) -> None:
    """As `load_image` of transformers' pipelines makes them, of a file that says by EXIF how it was held."""
    model, processor = fast_of("vit"), ViTImageProcessor(size={"height": 32, "width": 32})
    turned = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        _drawn(1)[0].save(tmp_path / f"{orientation}.png", exif=exif)
        turned.append(Image.open(tmp_path / f"{orientation}.png"))
    want = model(**processor([load_image(picture) for picture in turned], return_tensors="np")).logits
    assert np.abs(want[0] - want[5]).max() > 0.01
    np.testing.assert_allclose(model.map(turned, processor=processor).logits, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.zeros((3, 40, 50), np.uint8), r"item 2 is \[3, 40, 50\](.|\n)*transpose\(1, 2, 0\)"),
        (np.zeros((40, 50, 2), np.uint8), r"item 2 is \[40, 50, 2\](.|\n)*pass 1, 3 or 4"),
        (Image.fromarray(np.zeros((40, 50), np.uint16)), "item 2 has mode 'I;16', of more than 8 bits"),
    ],
)
def test_pictures_that_would_be_misread_are_refused_before_the_first_is_run(bad: Any, said: str, fast_of: Make) -> None:
    model, processor = fast_of("vit"), ViTImageProcessor(size={"height": 32, "width": 32})
    with observed_calls() as calls, pytest.raises(InputError, match=said):
        model.map([*_drawn(1), bad], processor=processor)
    assert not calls


def test_sounds_of_any_form(fast_of: Make) -> None:
    model, processor = fast_of("wav2vec2"), Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=False)
    whole = (np.sin(np.arange(900) / 9) * 30000).astype(np.int16)
    sound = whole.astype(np.float32) / 32768
    want = model(**processor(sound, sampling_rate=16000, return_tensors="np")).logits[0]
    row = {"audio": {"array": sound, "sampling_rate": 16000}, "label": 1}
    forms = [whole, torch.tensor(whole), sound.astype(np.float64), torch.tensor(sound), sound.tolist(), row]
    for got in model.map(forms, processor=processor).logits:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="map takes many items, and one sound came"):
        model.map(sound.tolist(), processor=processor)
    kernels, strides = model.config.conv_kernel, model.config.conv_stride
    least = 1
    for kernel, stride in zip(kernels[::-1], strides[::-1], strict=True):
        least = (least - 1) * stride + kernel
    with pytest.warns(UnprovedLengthWarning):
        model.map([np.ones(least, np.float32)], processor=processor)
    stereo = {"array": np.ones((2, 900)), "sampling_rate": 16000}
    wrong = ((np.ones(least - 1, np.float32), f"needs {least}"), (stereo, r"is \[2, 900\]"))
    for bad, said in (*wrong, (torch.ones(900, requires_grad=True), "is no array")):
        with observed_calls() as calls, pytest.raises(InputError, match=f"item 2 .*{said}"):
            model.map([sound, bad], processor=processor)
        assert not calls


def test_media_of_other_kinds_are_refused(fast_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast_of("vit")
    with pytest.raises(InputError, match="map takes many items, and one picture came"):
        model.map(_drawn(1)[0])
    with pytest.raises(InputError, match="some items are pictures and some are texts"):
        model.map([*_drawn(1), "a cat"])
    monkeypatch.setattr("optimum_core.models.data.media.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"transformers, which reads processors of pictures, is not installed"):
        model.map(iter(_drawn(1)))


def test_texts_by_the_models_own_tokenizer(fast: AcceleratedModel, tokenizer_file: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_file)
    items = [dict(tokenizer(text, truncation=True)) for text in TEXTS]
    assert len({len(item["input_ids"]) for item in items}) > 5
    want = np.stack(_one_by_one(fast, items))
    np.testing.assert_allclose(fast.map(TEXTS, batch_size=5).logits, want, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(fast.map(iter(TEXTS), tokenizer=tokenizer).logits, want, rtol=1e-3, atol=1e-4)


def _without_transformers(monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    gone = ("transformers", *more)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in gone else find_spec(name))


@pytest.mark.parametrize("limit", [16, 6, 10**30, None])
def test_the_tokenizers_library_cuts_and_pads_as_transformers_does(
    limit: int | None, tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_file / "tokenizer.json").read_bytes())
    stated = json.loads((tokenizer_file / "tokenizer_config.json").read_text())
    stated["model_max_length"] = limit
    if limit is None:
        del stated["model_max_length"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(stated))
    through_transformers = [list(item["input_ids"]) for item in read_texts(tmp_path, "m").encode(TEXTS)]
    _without_transformers(monkeypatch)
    by_itself = [list(item["input_ids"]) for item in read_texts(tmp_path, "m").encode(TEXTS)]
    assert by_itself == through_transformers
    assert max(map(len, by_itself)) == min(limit or 99, max(len(text.split()) + 2 for text in TEXTS))


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_texts_without_transformers(kind: str, fast_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fast_of(kind)
    want = model.map(TEXTS, batch_size=5).logits
    _without_transformers(monkeypatch)
    got = model.map(TEXTS, batch_size=5).logits
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


def test_what_reads_the_tokenizer_is_named_where_it_is_missing(
    fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_transformers(monkeypatch, "tokenizers")
    with pytest.raises(UnavailableError, match="pip install tokenizers"):
        fast.map(TEXTS)


def test_texts_without_any_tokenizer(fast_of: Make) -> None:
    with pytest.raises(UnavailableError, match=r"no tokenizer\.json(.|\n)*tokenizer="):
        fast_of("vit").map(["a picture of a cat"])


def test_one_kind_of_items_only(fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match="some items are texts and some are inputs by name"):
        fast.map(["w5", {"input_ids": [5]}])
    with pytest.raises(InputError, match="batch_size is 0"):
        fast.map(["w5"], batch_size=0)


@pytest.mark.parametrize("one", ["one text", b"one text", {"input_ids": [5]}, BatchEncoding({"input_ids": [[5]]})])
def test_one_item_is_not_many(one: Any, fast: AcceleratedModel) -> None:
    with pytest.raises(
        InputError, match=r"map takes many items, and one (text|bytes|dict|BatchEncoding) came(.|\n)*a list"
    ):
        fast.map(one)


@pytest.mark.parametrize("plain", [False, True])
def test_tokens_are_inputs_of_map(plain: bool, fast: AcceleratedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "transformers" else True)
        fast.__dict__.pop("_own_texts", None)
    items = fast.tokenize(TEXTS)
    np.testing.assert_allclose(fast.map(items).logits, fast.map(TEXTS).logits, rtol=1e-3, atol=1e-4)
    assert [len(item["input_ids"]) for item in fast.tokenize(["w5 " * 80], truncation=False)] == [82]
    assert [len(item["input_ids"]) for item in fast.tokenize(["w5 " * 80])] == [16]
    assert list(fast.tokenize(["w5"], prompt="w6 ")[0]["input_ids"]) == list(fast.tokenize(["w6 w5"])[0]["input_ids"])
    fast.__dict__.pop("_own_texts", None)


@pytest.mark.parametrize(
    ("one", "kind"),
    [("one text", "text"), ({"text": "it is"}, "dict"), ([{"role": "user", "content": "hi"}], "chat")],
)
def test_tokenize_takes_many_texts(one: Any, kind: str, fast: AcceleratedModel) -> None:
    with pytest.raises(InputError, match=rf"tokenize takes many items, and one {kind} came(.|\n)*fast.tokenize\(\["):
        fast.tokenize(one)
    assert fast.tokenize([]) == []


@pytest.mark.parametrize("bad", [[120], np.zeros(0, int), [5] * 65, [-1]])
def test_every_item_is_checked_before_the_first_is_run(bad: Any, fast: AcceleratedModel) -> None:
    model = dataclasses.replace(fast.manifest, inputs=_bounded(fast), axes={"sequence": AxisRange(greatest=64)})
    with open_model(model, fast.directory, plugins=manager()) as bounded:
        assert len(bounded.map([{"input_ids": [119] * 64}, {"input_ids": [0]}]).logits) == 2
        with (
            observed_calls() as calls,
            pytest.raises(InputError, match=r"ids from 0 to 119|tokens, the model takes"),
        ):
            bounded.map([{"input_ids": [5, 6]}, {"input_ids": [7] * 9}, {"input_ids": bad}])
    assert calls == []


@contextmanager
def observed_calls() -> Iterator[list[Any]]:
    """The inputs of every call that reaches a backend in this block."""
    calls: list[Any] = []

    class Observer:
        @hookimpl(wrapper=True)
        def infer(self, session: Any, inputs: Any) -> Any:
            calls.append(inputs)
            return (yield)

    manager().register(Observer(), "observer")
    try:
        yield calls
    finally:
        manager().unregister("observer")


def _bounded(model: AcceleratedModel) -> tuple[TensorSpec, ...]:
    return tuple(
        dataclasses.replace(spec, least=0, greatest=119) if spec.name == "input_ids" else spec
        for spec in model.manifest.inputs
    )


@pytest.mark.parametrize("transformers_too", [True, False])
@pytest.mark.parametrize(
    ("axis", "sentence", "longest"), [(None, None, 16), (9, None, 9), (9, 7, 7), (None, 12, 12), (40, 50, 40)]
)
def test_texts_are_cut_at_the_models_limit_and_the_stated_or_the_tokenizers(
    axis: int | None, sentence: int | None, longest: int, transformers_too: bool, fast: AcceleratedModel,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((fast.directory / name).read_bytes())
    if sentence is not None:
        (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence}))
    if not transformers_too:
        _without_transformers(monkeypatch)
    manifest = dataclasses.replace(fast.manifest, axes={} if axis is None else {"sequence": AxisRange(greatest=axis)})
    text = " ".join(["w5"] * 60)
    (item,) = ItemEncoder("m", None, None, manifest, tmp_path)([text])
    assert len(item["input_ids"]) == longest


def test_no_items(fast: AcceleratedModel) -> None:
    assert fast.map([]).logits.shape == (0, 5)


def test_saved_and_loaded_it_still_reads_texts(fast: AcceleratedModel, tmp_path: Path) -> None:
    fast.save_pretrained(tmp_path / "out")
    with load(tmp_path / "out") as loaded:
        np.testing.assert_allclose(loaded.map(TEXTS).logits, fast.map(TEXTS).logits, rtol=1e-4, atol=1e-5)


def test_progress_is_told_and_hidden_where_there_is_no_terminal(
    fast: AcceleratedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    fast.map(_items(3), progress=True)
    assert capsys.readouterr() == ("", "")
