"""Classes of pictures and sounds, and captions of pictures, that come as files: `curl -F file=@cat.png …/predict`."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from optimum_serve.abilities import LOGITS
from optimum_serve.endpoints import Call, json_response, together
from optimum_serve.errors import invalid
from optimum_serve.protocols.classes import Score, classes
from optimum_serve.protocols.pictures import read_pictures
from optimum_serve.protocols.sounds import read_sounds
from optimum_serve.serving import ServedModel

_FORM = "multipart/form-data"
#: Samples of a sound that models take together, as convolutions of wav2vec 2.0 do.
_SAMPLES = 320
#: The first bytes of pictures and sounds, none of which begins JSON.
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
_DATA = re.compile(r"data:[^,]*;base64,")


class FileParameters(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The form of the answer: beside the files of a form, or beside a file in base64."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_new_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Caption(msgspec.Struct, kw_only=True):
    """The text of a picture."""

    generated_text: str


class EncodedFile(FileParameters, kw_only=True, forbid_unknown_fields=True):
    """A request for the classes of a picture or a sound in base64 or as a data URI, as the hub's client sends one with
    parameters."""

    inputs: str


def is_file(call: Call) -> bool:
    """Whether a request carries a file, or a form with files, rather than JSON: it says so, or begins as files do."""
    kind = call.request.headers.get("content-type", "")
    return kind.startswith(("image/", "audio/", "application/octet-stream", _FORM)) or call.body.startswith(_BEGINNINGS)


def takes_files(model: ServedModel) -> bool:
    """Whether a model classifies pictures or sounds, or writes what is on a picture."""
    return (model.classifies or model.captions) and model.medium in _READ


async def answer_files(call: Call) -> Response:
    """Return the classes of each file, the likeliest first, or its caption; of several files, a list for each."""
    files, stated = await _files(call)
    answers = await _answered(call, files, stated)
    return json_response(answers[0] if len(answers) == 1 else answers)


async def answer_encoded(call: Call, body: EncodedFile) -> Response:
    """Return the classes of a file in base64, the likeliest first, or its caption."""
    if body.inputs.startswith(("http://", "https://")):
        raise invalid("inputs is an address, and this server fetches nothing: send the file itself", "not_supported")
    try:
        content = base64.b64decode(_DATA.sub("", body.inputs, count=1), validate=True)
    except ValueError:
        raise invalid("inputs is no file in base64", "invalid_request") from None
    (answer,) = await _answered(call, [content], body)
    return json_response(answer)


async def _answered(
    call: Call, files: Sequence[bytes], stated: FileParameters
) -> Sequence[Sequence[Score] | Sequence[Caption]]:
    model = call.server.chosen(call, None, takes_files, "takes files")
    model.check_number(len(files))
    others = ("function_to_apply", "top_k") if model.captions else ("max_new_tokens",)
    if name := next((name for name in others if getattr(stated, name) is not None), None):
        raise invalid(f"{name} is of no use for a model of kind {model.kind!r}: leave it out", "not_supported")
    read = _READ[model.medium]
    items = await asyncio.to_thread(read, files)
    call.memory.hold(sum(map(_size, items)))
    if model.captions:
        return await _captions(call, model, items, stated.max_new_tokens)
    found = await model.run(items, LOGITS, [_length(item) for item in items])
    return [classes(model, row, stated.function_to_apply)[: stated.top_k] for row in found.values]


def _length(item: Any) -> int:
    """Return the length by which items are batched: of a sound, about the places that models make of it."""
    return 1 + len(item["array"]) // _SAMPLES if isinstance(item, Mapping) else 1


def _size(item: Any) -> int:
    """Return the bytes of a sound, or of a picture in colours."""
    return int(item["array"].nbytes) if isinstance(item, Mapping) else 3 * item.width * item.height


async def _captions(call: Call, model: ServedModel, pictures: Sequence[Any], most: int | None) -> list[list[Caption]]:
    inputs = await asyncio.to_thread(model.model.prepare, pictures)
    call.memory.hold(sum(np.asarray(value).nbytes for item in inputs for value in item.values()))
    texts = await together([_whole(model.caption(item, most)) for item in inputs])
    return [[Caption(generated_text=text)] for text in texts]


async def _whole(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


async def _files(call: Call) -> tuple[list[bytes], FileParameters]:
    """Return the files of a request, and the further fields of its form."""
    if not call.request.headers.get("content-type", "").startswith(_FORM):
        return [call.body], FileParameters()

    async def body() -> Any:
        yield call.body

    try:
        parser = MultiPartParser(call.request.headers, body(), max_files=64, max_part_size=len(call.body))
        parser.spool_max_size = len(call.body) + 1  # the body is in memory already: nothing is written to a disk
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"the form cannot be read: {error.message}", status=400) from None
    items = form.multi_items()
    files = [await item.read() for _, item in items if isinstance(item, UploadFile)]
    await form.close()
    if not files:
        raise invalid("the form has no file", "empty", 400)
    try:
        stated = {name: item for name, item in items if not isinstance(item, UploadFile)}
        return files, msgspec.convert(stated, FileParameters, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


_READ: Mapping[str, Callable[[Sequence[bytes]], list[Any]]] = {"picture": read_pictures, "sound": read_sounds}
