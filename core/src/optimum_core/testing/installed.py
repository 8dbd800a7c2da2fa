"""The installed backend: its entry point, and its own hooks without the manager's guard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pluggy
from importlib_metadata import EntryPoint, entry_points

from optimum_core.hardware import detect
from optimum_core.hookspecs import PROJECT, Hooks
from optimum_core.plugins import GROUP, Status, manager
from optimum_core.plugins.support_check import misfit
from optimum_core.types import Cpu, Hardware, Support, TensorSpec

#: A machine of which nothing is known.
BARE = Hardware(
    system="linux",
    system_version="",
    cpu=Cpu(
        vendor="unknown",
        model="unknown",
        architecture="unknown",
        features=frozenset(),
        physical_cores=1,
        usable_cores=1,
    ),
    memory=1 << 30,
)

SYSTEMS = ("linux", "macos", "windows", "plan9")


def entry(backend: str) -> EntryPoint | None:
    """Return the backend's entry point, the first where several claim the name, or None."""
    return next(iter(entry_points(group=GROUP, name=backend)), None)


def own_hooks(backend: str) -> Any:
    """Return the backend's own hooks: errors pass unchanged, and no other plugin is called."""
    found = entry(backend)
    assert found is not None, f"no entry point {backend!r} in the group {GROUP!r}"
    return _hooks(found)


@cache
def _hooks(found: EntryPoint) -> Any:
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(Hooks)
    plugins.register(found.load())
    return plugins.hook


def probe(backend: str, hardware: Hardware) -> Support:
    """Return a new, uncached result of the backend's probe."""
    answers = own_hooks(backend).probe(hardware=hardware)
    assert len(answers) == 1, f"probe gave {len(answers)} answers, not one"
    assert isinstance(answers[0], Support), f"probe returned {answers[0]!r}, which is no Support"
    wrong = misfit(answers[0])
    assert wrong is None, f"{wrong.why}: {wrong.remedy}"
    return answers[0]


def is_ready(backend: str) -> bool:
    """Whether the backend was found once, keeps the hook contract, and its probe answered for this machine."""
    manager().supports(detect())
    return [info.status for info in manager().infos() if info.name == backend] == [Status.READY]


def answers(backend: str) -> Iterator[tuple[Hardware, Support]]:
    """Yield what the probe offers on this machine, on an unknown one and on other operating systems.

    A machine for which it fails is left out: a test of its own reports that.
    """
    for hardware in (detect(), BARE, *on_other_systems()):
        try:
            yield hardware, probe(backend, hardware)
        except Exception:  # noqa: BLE001 - a probe under test may raise anything
            continue


def on_other_systems() -> Iterable[Hardware]:
    """Return this machine's hardware as if it had other operating systems."""
    return [replace(detect(), system=system, system_version="99.0") for system in SYSTEMS]


@dataclass(kw_only=True, slots=True)
class Strangers:
    """A session of a backend that does not exist."""

    backend: str = "someone-else"
    device: str = "cpu"
    inputs: tuple[TensorSpec, ...] = field(default=())
    outputs: tuple[TensorSpec, ...] = field(default=())

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
