"""Pictures and sounds through `map`, in all usual forms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor, Wav2Vec2FeatureExtractor
from transformers.image_utils import load_image

from mapped_models import observed_calls
from optimum_core import AcceleratedModel
from optimum_core.errors import InputError, UnavailableError

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[[str], AcceleratedModel]


def _drawn(count: int) -> list[Any]:
    rng = np.random.default_rng(4)
    return [Image.fromarray(rng.integers(0, 255, (40 + n, 50, 3), dtype=np.uint8)) for n in range(count)]


def test_pictures(fast_of: Make) -> None:
    model = fast_of("vit")
    pixels = np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)
    got = model.map([{"pixel_values": picture} for picture in pixels], batch_size=2).logits
    np.testing.assert_allclose(got, model(pixel_values=pixels).logits, rtol=1e-3, atol=1e-4)


def test_pictures_through_a_processor(fast_of: Make) -> None:
    model, processor = fast_of("vit"), ViTImageProcessor(size={"height": 32, "width": 32})
    pictures = _drawn(9)  # more than one window holds
    want = model(**processor(pictures, return_tensors="np")).logits
    (first,) = model.prepare(pictures[:1], processor=processor)
    np.testing.assert_allclose(first["pixel_values"], processor(pictures[0], return_tensors="np")["pixel_values"][0])
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
    model.map([np.ones(least, np.float32)], processor=processor)
    with pytest.raises(InputError, match=f"{least - 1} samples, the model takes {least} or more"):
        model(input_values=np.ones((1, least - 1), np.float32))
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


def test_texts_without_any_tokenizer(fast_of: Make) -> None:
    with pytest.raises(UnavailableError, match=r"no tokenizer\.json(.|\n)*tokenizer="):
        fast_of("vit").map(["a picture of a cat"])
