"""Pictures in chats: OpenAI's client gets what the eager model writes behind them."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from optimum_core import accelerate, load
from optimum_core.errors import OptionError
from optimum_core.measure import Effort, measuring
from optimum_core.testing.pictures import PICTURE, VOCABULARY, picture_model
from optimum_serve import ModelSettings

WORDS = [f"w{number}" for number in range(VOCABULARY)]
WORDS[PICTURE], WORDS[1], WORDS[2] = "<image>", "<pad>", "<s>"
TEMPLATE = (
    "{% for m in messages %}{{ ' w9' if m.role == 'user' else ' w8' }}{% for part in m.content %}"
    "{{ ' <image>' if part.type == 'image' else ' ' + part.text }}{% endfor %}{% endfor %} w11"
)


def _png(seed: int, size: tuple[int, int] = (20, 24)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _part(content: bytes, kind: str = "png") -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _asked(*parts: dict[str, Any]) -> list[Any]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "w20 w21"}]}]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pictures with text, and its processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    source = tmp_path_factory.mktemp("llava") / "source"
    own = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="w0", pad_token="<pad>", bos_token="<s>", extra_special_tokens=["<image>"]
    )
    size = {"height": 16, "width": 16}
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size=size, crop_size=size), tokenizer=tokenizer, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=TEMPLATE,
    ).save_pretrained(source)  # fmt: skip
    picture_model("llava").save_pretrained(source)
    return source


@pytest.fixture(scope="module")
def made(directory: Path) -> Path:
    quick = measuring(Effort(rounds=1, seconds=0.005, steady=math.inf))
    folder = directory.parent
    with quick, accelerate(directory, target="ort", budget=0, shapes=[(1, 16, 4)], cache_dir=folder / "cache") as fast:
        fast.save_pretrained(folder / "made")
    return folder / "made"


@pytest.fixture(scope="module")
def client(made: Path, serve: Any) -> Iterator[openai.OpenAI]:
    live = serve(ModelSettings(source=str(made), name="seer"))
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client:
        yield client
    live.stop()


def _eager(directory: Path, files: list[bytes], new: int) -> str:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(directory)
    pictures = [{"type": "image", "image": Image.open(io.BytesIO(file))} for file in files]
    inputs = processor.apply_chat_template(
        _asked(*pictures), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    ids = picture_model("llava").generate(**inputs, max_new_tokens=new, do_sample=False)
    text: str = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest.mark.parametrize("seeds", [[1], [2], [1, 2], []])
def test_texts_are_those_of_the_eager_model(seeds: list[int], client: openai.OpenAI, directory: Path) -> None:
    files = [_png(seed) for seed in seeds]
    asked: dict[str, Any] = {"model": "seer", "temperature": 0, "max_tokens": 8}
    whole = client.chat.completions.create(messages=_asked(*map(_part, files)), **asked)
    assert whole.choices[0].message.content == _eager(directory, files, 8)
    assert whole.usage is not None and whole.usage.prompt_tokens == 4 + 4 * len(files)
    pieces = client.chat.completions.create(messages=_asked(*map(_part, files)), stream=True, **asked)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == whole.choices[0].message.content


def test_a_picture_changes_the_text(client: openai.OpenAI) -> None:
    def asked(*parts: dict[str, Any]) -> str | None:
        answer = client.chat.completions.create(model="seer", messages=_asked(*parts), temperature=0, max_tokens=8)
        return answer.choices[0].message.content

    assert len({asked(), asked(_part(_png(1))), asked(_part(_png(2)))}) == 3


def test_without_a_server_a_chat_is_a_prompt_too(made: Path, directory: Path) -> None:
    picture = {"type": "image", "image": Image.open(io.BytesIO(_png(1)))}
    with load(made) as model:
        assert model.takes_pictures_in_chats
        text = model.generate(_asked(picture), max_new_tokens=8, do_sample=False)
        assert text == _eager(directory, [_png(1)], 8)
        prepared = model.prepare_chat(_asked(picture))
        assert "".join(model.generate(prepared, stream=True, max_new_tokens=8, do_sample=False)) == text
        for logprobs, stream in ((3, False), (-1, True)):
            with pytest.raises(OptionError, match="logprobs"):
                model.generate(prepared, logprobs=logprobs, stream=stream)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": {"url": "/etc/passwd"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}, "no picture in base64"),
        ({"type": "image_url", "image_url": "data:image/png;base64,"}, "image_url"),
        ({"type": "image_url"}, "image_url"),
        (_part(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x-eps"), "no picture that can be read"),
        (_part(_png(1)[:200]), "no picture that can be read"),
        ({**_part(_png(1)), "image_url": {**_part(_png(1))["image_url"], "detail": "high"}}, "detail"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "input_audio"),
    ],
)
def test_what_is_no_picture_here_is_refused(part: dict[str, Any], said: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(model="seer", messages=_asked(part), max_tokens=2)


def test_many_pictures_do_not_fill_the_memory(client: openai.OpenAI) -> None:
    file = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(file, "PNG")
    with pytest.raises(openai.BadRequestError, match="all of a request may have"):
        client.chat.completions.create(model="seer", messages=_asked(*[_part(file.getvalue())] * 2), max_tokens=2)


def test_texts_alone_are_not_its_prompts(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="writes text behind a text"):
        client.completions.create(model="seer", prompt="w20", max_tokens=2)
