"""Check of properties by OpenVINO's own names, before a model is exported."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import openvino

from optimum_core.errors import OptionError
from optimum_openvino.devices import BACKEND, spoken
from optimum_openvino.runtime import RUNTIME_ERRORS, core
from optimum_openvino.session import sentence

#: Where compiled models are kept: it is created and written to, and any text will do.
_WRITES = "CACHE_DIR"


def check_properties(given: Mapping[str, Any]) -> None:
    """Compile a model of one operator with the properties: only that shows what OpenVINO takes, and takes a tenth of a
    second.

    Raises:
        OptionError: no device here takes them.
    """
    tried = {name: value for name, value in given.items() if name != _WRITES}
    problems = {}
    for device in core().available_devices:
        try:
            core().compile_model(_smallest(), device, tried)
        except RUNTIME_ERRORS as error:
            problems[device] = sentence(str(error))
        else:
            return
    told = "; ".join(f"on {spoken(device)}: {problem}" for device, problem in problems.items())
    raise OptionError(f"backend '{BACKEND}'", f"option 'properties': openvino refuses {tried} {told}", _remedy(tried))


def _smallest() -> Any:
    parameter = openvino.op.Parameter(openvino.Type.f32, openvino.Shape([1]))
    return openvino.Model([openvino.op.Result(parameter.output(0))], [parameter], "smallest")


def _remedy(given: Mapping[str, Any]) -> str:
    """Return the nearest name for one that is unknown; where all are known, the advice to correct a value."""
    known = {name for device in core().available_devices for name in _settable(device)}
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
            return f"did you mean {nearest[0]!r}?" if nearest else f"use one of: {', '.join(sorted(known))}"
    return "correct the value"


def _settable(device: str) -> list[str]:
    found = core().get_property(device, "SUPPORTED_PROPERTIES")
    return [name for name, access in found.items() if "W" in access]
