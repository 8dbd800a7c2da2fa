"""The description of all endpoints, in OpenAPI 3.1, from their structures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from optimum_serve.endpoints import VERSION, Endpoint
from optimum_serve.version import __version__

_STATED = (None, bytes)
_FILE = {"type": "string", "format": "binary"}
_FILES: dict[str, Any] = {
    "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILE}}},
    "image/*": {"schema": _FILE},
    "audio/wav": {"schema": _FILE},
}
_PART = re.compile(r"{(\w+)(?::\w+)?}")


def description(endpoints: Iterable[Endpoint], models: Sequence[str]) -> dict[str, Any]:
    """Return the description of endpoints, for a server of models of these names."""
    known = [endpoint for endpoint in endpoints if endpoint.path != "/"]
    stated = [
        kind for endpoint in known for kind in (endpoint.takes, endpoint.json, endpoint.gives) if kind not in _STATED
    ]
    schemas, components = msgspec.json.schema_components(stated, ref_template="#/components/schemas/{name}")
    by_kind = {id(kind): schema for kind, schema in zip(stated, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in known:
        path = _PART.sub(r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, by_kind, models)
    return {
        "openapi": "3.1.0",
        "info": {"title": "optimum-serve", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(endpoint: Endpoint, schemas: dict[int, Any], models: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": endpoint.summary,
        "tags": [endpoint.protocol],
        "responses": {"200": _answer(endpoint, schemas), "default": {"description": "An error, with its reason"}},
    }
    allowed = {"model": list(models), "version": [VERSION]}
    if names := _PART.findall(endpoint.path):
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": allowed[name]}}
            for name in names
        ]
    if endpoint.takes is not None:
        stated = endpoint.json if endpoint.takes is bytes else endpoint.takes
        content = {"application/json": {"schema": schemas.get(id(stated), {"type": "object"})}}
        found["requestBody"] = {"required": True, "content": content | (_FILES if endpoint.files else {})}
    if not endpoint.is_open:
        found["security"] = [{}, {"key": []}]
    return found


def _answer(endpoint: Endpoint, schemas: dict[int, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"description": "The answer"}
    if endpoint.gives is not None:
        found["content"] = {"application/json": {"schema": schemas[id(endpoint.gives)]}}
    return found
