"""Machines to probe and to open sessions on: this one, with changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from optimum_core.hardware import detect
from optimum_core.types import Cpu, Hardware, Support

#: The type of the fixture `hardware`.
Machine = Callable[..., Hardware]
_OF_CPU = {field.name for field in dataclasses.fields(Cpu)}


def machine(**changes: Any) -> Hardware:
    """Return this machine with two usable cores and no other device, changed as stated.

    Args:
        changes: fields of `Hardware` or of its `Cpu`; `features` may be any collection of names.
    """
    here = detect()
    of_cpu = {"usable_cores": 2, **{name: changes.pop(name) for name in _OF_CPU & set(changes)}}
    of_cpu["features"] = frozenset(of_cpu.get("features", here.cpu.features))
    return dataclasses.replace(
        here, **{"gpus": (), "npus": (), "cpu": dataclasses.replace(here.cpu, **of_cpu), **changes}
    )


def reasons(support: Support) -> dict[str, tuple[str, str]]:
    """Return the reason and the remedy of each limitation, by what is limited."""
    return {item.what: (item.reason, item.remedy) for item in support.limitations}
