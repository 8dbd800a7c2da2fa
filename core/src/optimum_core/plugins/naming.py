"""Suggestions for error messages: the backend meant by an unknown target, and the package to install."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from optimum_core.types import Support

_SEE = "see `optimum-core plugins` for what is installed, and what each can do here"


@cache
def _known() -> Mapping[str, Any]:
    return tomllib.loads(files(__package__).joinpath("known.toml").read_text(encoding="utf-8"))


def _plain(name: str) -> str:
    """Return a name in lower case without punctuation, so that "ONNX Runtime" and "onnx-runtime" are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def explain(name: str, installed: Sequence[str], supports: Mapping[str, Support]) -> tuple[str, str]:
    """Return why no backend has this name, and the remedy: the backend meant or its distribution, where known.

    Args:
        installed: every backend that was found, whatever its state.
        supports: supports of the backends probed so far.

    >>> explain("tensorrt", ["ort"], {})[1]
    "pip install optimum-trt, and target='trt'"
    """
    if (meant := _meant(name, installed)) is not None:
        owner = _known()["backends"].get(meant, {}).get("distribution")
        if meant in installed or owner is None:
            return "is no backend", f"did you mean {meant!r}?"
        return "is not installed", f"pip install {owner}{'' if meant == name else f', and target={meant!r}'}"
    if (devices := _known()["devices"].get(_plain(name))) is not None:
        return "is a device, and no backend", _with_device(devices, supports)
    near = difflib.get_close_matches(name.lower(), [*installed, *_known()["backends"]], n=1)
    if not near:
        return "is not installed", f"install the distribution that ships it; {_SEE}"
    owner = "" if near[0] in installed else _known()["backends"][near[0]].get("distribution", "")
    return "is not installed", f"did you mean {near[0]!r}?{f' pip install {owner}' if owner else ''}"


def _meant(name: str, installed: Iterable[str]) -> str | None:
    """Return the backend that is commonly called by this name, or None."""
    wanted = _plain(name)
    for backend in installed:
        if _plain(backend) == wanted:
            return backend
    for backend, about in _known()["backends"].items():
        words = {_plain(word) for word in (backend, about.get("distribution", backend), *about["called"])}
        if wanted in words:
            return str(backend)
    return None


def _with_device(devices: Sequence[str], supports: Mapping[str, Support]) -> str:
    """Return the backends that have one of these devices here, or why those that support it do not."""
    found = [
        f"{name}:{offer.device}"
        for name, support in supports.items()
        for offer in support.offers
        if offer.device in devices and offer.proof == "device"
    ]
    if found:
        return f"name a backend with it: target={' or target='.join(map(repr, found))}"
    reasons = dict.fromkeys(
        f"{name}: {limit.reason} ({limit.remedy})"
        for name, support in supports.items()
        for limit in support.limitations
        if limit.device in devices
    )
    return f"no backend here runs on it: {'; '.join(reasons)}" if reasons else f"no backend here runs on it; {_SEE}"


def install_words() -> str:
    """Return the install command for a machine without any backend."""
    first = [about["distribution"] for about in _known()["backends"].values() if about.get("first")]
    return f"pip install {' or '.join(first)}"
