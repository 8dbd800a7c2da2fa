"""Open Inference Protocol v2, which KServe, Triton and others speak: tensors in, tensors out.

Tensors may be JSON, or the binary extension: bytes behind the JSON, whose length stands in a header. Source:
https://github.com/kserve/open-inference-protocol.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from starlette.responses import Response

from optimum_core.types import TensorSpec
from optimum_core.types.arrays import NDArray
from optimum_serve.bodies import whole_number
from optimum_serve.endpoints import VERSION, Call, Endpoint, decoded, json_response
from optimum_serve.errors import RequestError, invalid
from optimum_serve.serving import ServedModel
from optimum_serve.version import __version__

_NAME = "Open Inference Protocol"
_HEADER = "Inference-Header-Content-Length"
#: Parameters that have an effect here; others are refused.
_KNOWN = frozenset({"binary_data_size", "binary_data", "binary_data_output"})
#: Names of types in the protocol.
_TYPES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "uint8": "UINT8",
    "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _TYPES.items()}


class Tensor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A tensor: its data here, or behind the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] = {}


class WantedOutput(msgspec.Struct, kw_only=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, kw_only=True):
    """The inputs of one call, and the outputs that are asked for; without any, all."""

    inputs: list[Tensor]
    id: str = ""
    outputs: list[WantedOutput] = []
    parameters: dict[str, Any] = {}


class InferAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The outputs of one call."""

    model_name: str
    outputs: list[Tensor]
    model_version: str = "1"
    id: str = ""


def _render(problem: RequestError) -> dict[str, str]:
    return {"error": problem.message}


class IndexRequest(msgspec.Struct, kw_only=True):
    """The choice of models to list: those that answer, or all."""

    ready: bool = False


class IndexEntry(msgspec.Struct, kw_only=True):
    """A model and its state: "READY", "LOADING" or "UNAVAILABLE"."""

    name: str
    version: str
    state: str
    reason: str = ""


_INDEX, _INFER = msgspec.json.Decoder(IndexRequest), msgspec.json.Decoder(InferRequest)


async def _server(call: Call) -> Response:
    extensions = ["binary_tensor_data", "model_repository"]
    return json_response({"name": "optimum-serve", "version": __version__, "extensions": extensions})


async def _index(call: Call) -> Response:
    asked = decoded(_INDEX, call.body) if call.body else IndexRequest()
    models = (model for model in call.server.models.values() if model.is_ready or not asked.ready)
    return json_response([IndexEntry(name=model.name, version=VERSION, **_state(model)) for model in models])


def _state(model: ServedModel) -> dict[str, str]:
    if model.is_ready:
        return {"state": "READY"}
    return {"state": "UNAVAILABLE", "reason": "it could not be opened"} if model.problem else {"state": "LOADING"}


async def _live(call: Call) -> Response:
    return json_response({"live": True})


async def _ready(call: Call) -> Response:
    return json_response({"ready": call.server.is_ready}, 200 if call.server.is_ready else 503)


def _named(call: Call) -> ServedModel:
    """Return the model of the path.

    Raises:
        RequestError: there is none of this name, or of this version.
    """
    model = call.server.named(call, call.path["model"])
    if call.path.get("version", VERSION) != VERSION:
        message = f"model {model.name!r} has version {VERSION} only"
        raise RequestError(status=404, kind="no_model", message=message)
    return model


async def _model_ready(call: Call) -> Response:
    model = _named(call)
    return json_response({"name": model.name, "ready": model.is_ready}, 200 if model.is_ready else 503)


async def _metadata(call: Call) -> Response:
    model = _named(call)
    manifest = model.model.manifest
    found = {
        "name": model.name,
        "versions": [VERSION],
        "platform": f"{model.model.backend}_{manifest.format}",
        "inputs": [_described(spec) for spec in manifest.inputs],
        "outputs": [_described(spec) for spec in manifest.outputs],
    }
    return json_response(found)


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [length if isinstance(length, int) else -1 for length in spec.shape]
    return {"name": spec.name, "datatype": _TYPES.get(spec.dtype, spec.dtype.upper()), "shape": shape}


async def _infer(call: Call) -> Response:
    model = _named(call)
    asked, rest = _parsed(call.body, call.request.headers.get(_HEADER))
    _check_parameters(asked)
    arrays = _arrays(asked.inputs, rest)
    if b"true" in call.body or b"false" in call.body:  # a name may hold them too; few requests are looked through
        _check_booleans(asked.inputs)
    _check_types(arrays, model)
    wanted = {output.name: output for output in asked.outputs}
    known = model.outputs
    if unknown := next((name for name in wanted if name not in known), None):
        raise invalid(f"there is no output {unknown!r}; outputs are {', '.join(known)}")
    found = await model.call(arrays)
    answer = InferAnswer(model_name=model.name, id=asked.id, outputs=[])
    behind: list[bytes] = []
    all_binary = bool(asked.parameters.get("binary_data_output"))
    for name in wanted or found:
        parameters = wanted[name].parameters if name in wanted else {}
        tensor, data = _tensor(name, found[name], binary=bool(parameters.get("binary_data", all_binary)))
        answer.outputs.append(tensor)
        behind += [data] if data is not None else []
    head = msgspec.json.encode(answer)
    if not behind:
        return Response(head, media_type="application/json")
    return Response(head + b"".join(behind), media_type="application/octet-stream", headers={_HEADER: str(len(head))})


def _check_parameters(asked: InferRequest) -> None:
    """Refuse parameters that would have no effect, and inputs that come twice."""
    outputs = [output.parameters for output in asked.outputs]
    stated = [asked.parameters, *(tensor.parameters for tensor in asked.inputs), *outputs]
    if unknown := sorted({name for parameters in stated for name in parameters} - _KNOWN):
        raise invalid(f"parameter {unknown[0]!r} is not supported here: leave it out", "not_supported")
    names = [tensor.name for tensor in asked.inputs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise invalid(f"input {twice!r} came twice")


def _check_types(arrays: Mapping[str, NDArray], model: ServedModel) -> None:
    """Refuse a type of another kind than the model's: whole numbers, fractions, or booleans."""
    kinds = {spec.name: spec.dtype for spec in model.model.manifest.inputs}
    for name, array in arrays.items():
        own = kinds.get(name)
        if own in _TYPES and _kind(np.dtype(own)) != _kind(array.dtype):
            raise invalid(f"input {name!r} is {_TYPES[array.dtype.name]}, and the model takes {_TYPES[own]}")


def _check_booleans(tensors: Sequence[Tensor]) -> None:
    """Refuse true and false among numbers, which numpy would take for 1 and 0."""
    for tensor in tensors:
        if tensor.datatype != "BOOL" and _holds_boolean(tensor.data):
            raise invalid(f"input {tensor.name!r}: its data hold true or false, and its type is {tensor.datatype}")


def _holds_boolean(data: Any) -> bool:
    return any(map(_holds_boolean, data)) if isinstance(data, list) else isinstance(data, bool)


def _kind(dtype: np.dtype[Any]) -> str:
    return "i" if dtype.kind == "u" else dtype.kind


def _parsed(body: bytes, length: str | None) -> tuple[InferRequest, memoryview]:
    size = len(body) if length is None else whole_number(length)
    if size is None:
        raise invalid(f"{_HEADER} is {length:.60}, which is no number of bytes")
    if size > len(body):
        raise invalid(f"{_HEADER} is {size}, and the body has {len(body)} bytes")
    return decoded(_INFER, body[:size]), memoryview(body)[size:]


def _arrays(tensors: Sequence[Tensor], rest: memoryview) -> dict[str, NDArray]:
    """Return the arrays of a request; those without data follow one another behind the JSON.

    Raises:
        RequestError: a tensor is not what it says it is.
    """
    found: dict[str, NDArray] = {}
    for tensor in tensors:
        if tensor.datatype not in _DTYPES:
            raise invalid(
                f"input {tensor.name!r} is of type {tensor.datatype!r}: {', '.join(_DTYPES)} are read", status=400
            )
        if any(length < 0 for length in tensor.shape):
            raise invalid(f"input {tensor.name!r} has a length below zero")
        dtype = np.dtype(_DTYPES[tensor.datatype]).newbyteorder("<")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            found[tensor.name] = _from_json(tensor, dtype)
            continue
        if not isinstance(size, int) or size != math.prod(tensor.shape) * dtype.itemsize or size > len(rest):
            raise invalid(f"input {tensor.name!r} does not have the bytes of its shape")
        found[tensor.name] = np.frombuffer(rest[:size], dtype).reshape(tensor.shape)
        rest = rest[size:]
    return found


def _from_json(tensor: Tensor, dtype: np.dtype[Any]) -> NDArray:
    try:
        values = np.asarray(tensor.data)
        if tensor.data is not None and not values.size:
            return np.zeros(tensor.shape, dtype) if not math.prod(tensor.shape) else np.empty(0).reshape(tensor.shape)
        if values.dtype.kind not in "biuf" and values.size:
            raise ValueError(f"its data are missing, or no numbers of type {tensor.datatype}")
        if values.dtype.kind == "f" and dtype.kind in "iub":
            raise ValueError(f"its data are fractions, and its type is {tensor.datatype}")
        if values.dtype.kind in "biu" and dtype.kind in "biu" and (values != values.astype(dtype)).any():
            raise ValueError(f"its data hold numbers that {tensor.datatype} does not")
        return values.astype(dtype).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise invalid(f"input {tensor.name!r}: {error}") from None


def _tensor(name: str, array: NDArray, *, binary: bool) -> tuple[Tensor, bytes | None]:
    datatype = _TYPES[array.dtype.name]
    shape = list(array.shape)
    if not binary:
        return Tensor(name=name, shape=shape, datatype=datatype, data=array.ravel().tolist()), None
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return Tensor(name=name, shape=shape, datatype=datatype, parameters={"binary_data_size": len(data)}), data


def _endpoint(method: str, path: str, answer: Any, summary: str, takes: Any = None, gives: Any = None) -> Endpoint:
    return Endpoint(
        method=method, path=path, answer=answer, summary=summary, protocol=_NAME, takes=takes, gives=gives,
        render=_render, statuses={413: 400, 422: 400, 501: 400}, is_open="health" in path,
    )  # fmt: skip


_ANY: Any = Mapping[str, Any]
ENDPOINTS = (
    _endpoint("GET", "/v2", _server, "Describe the server", gives=dict[str, Any]),
    _endpoint("GET", "/v2/health/live", _live, "Whether the server runs", gives=dict[str, bool]),
    _endpoint("GET", "/v2/health/ready", _ready, "Whether all models answer", gives=dict[str, bool]),
    _endpoint("POST", "/v2/repository/index", _index, "List the models", bytes, list[IndexEntry]),
    *(
        endpoint
        for version in ("", "/versions/{version}")
        for endpoint in (
            _endpoint("GET", f"/v2/models/{{model}}{version}/ready", _model_ready, "Whether a model answers"),
            _endpoint("POST", f"/v2/models/{{model}}{version}/infer", _infer, "Call a model", bytes, InferAnswer),
            _endpoint("GET", f"/v2/models/{{model}}{version}", _metadata, "Describe a model's tensors"),
        )
    ),
)
