"""CPU and memory limits of Linux control groups: version 1, version 2 and both side by side.

A limit may be set on the process's own group or on any group above it; the strictest counts. A container usually sees
only its own part of the tree, so a group that a path names may not exist here: it is skipped, and the mount point
itself holds the container's limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from optimum_core.hardware.files import read_int, read_text, to_int

_MOUNT_POINT = PurePosixPath("/sys/fs/cgroup")
_ESCAPE = re.compile(r"\\([0-7]{3})")
Number = TypeVar("Number", int, float)


def cpu_limit(root: Path) -> float | None:
    """Return the CPU time per wall time that the cgroups of this process allow (1.5: 1.5 cores); None: no limit."""
    return _strictest(_cpu_limit_of(folder) for folder in _folders(root, "cpu"))


def memory_limit(root: Path) -> int | None:
    """Return the bytes that the cgroups of this process allow; None: no limit, in version 1 a number near 2**63."""
    limits = (
        read_int(folder / name)
        for folder in _folders(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
    )
    limit = _strictest(limits)
    return None if limit is None or limit >= 2**62 else limit


def _cpu_limit_of(folder: Path) -> float | None:
    unified = (read_text(folder / "cpu.max") or "").split()
    if len(unified) == 2:
        quota, period = to_int(unified[0]), to_int(unified[1])
    else:
        quota, period = read_int(folder / "cpu.cfs_quota_us"), read_int(folder / "cpu.cfs_period_us")
    # Version 1 writes "no limit" as -1. A number beyond 2**62 is no time, and dividing it could overflow.
    if quota is None or period is None or not 0 < quota < 2**62 or not 0 < period < 2**62:
        return None
    return quota / period


def _strictest(limits: Iterable[Number | None]) -> Number | None:
    return min((limit for limit in limits if limit is not None and limit > 0), default=None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mount:
    """A mounted cgroup hierarchy: `top` is the group that its mount point shows. Version 2 names no controllers."""

    controllers: frozenset[str]
    top: PurePosixPath
    point: PurePosixPath


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield every folder that may hold a limit for this process, in each hierarchy from its own group up to the top."""
    mounts = tuple(_mounts(read_text(root / "proc/self/mountinfo") or ""))
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        controllers = frozenset(filter(None, names.split(",")))
        if controllers and controller not in controllers:
            continue
        found = [mount for mount in mounts if _serves(mount, controllers, controller)]
        for mount in found or _usual_mounts(names):
            yield from _upwards(root, mount, PurePosixPath(path))


def _serves(mount: _Mount, controllers: frozenset[str], controller: str) -> bool:
    return controller in mount.controllers if controllers else not mount.controllers


def _usual_mounts(controllers: str) -> tuple[_Mount, ...]:
    """Return the usual mount points of a hierarchy, for systems that hide their mount table."""
    points = [_MOUNT_POINT / controllers] if controllers else [_MOUNT_POINT, _MOUNT_POINT / "unified"]
    names = frozenset(filter(None, controllers.split(",")))
    return tuple(_Mount(controllers=names, top=PurePosixPath("/"), point=point) for point in points)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) < 5 or not kind or kind[0] not in ("cgroup", "cgroup2"):
            continue
        options = kind[-1].split(",") if kind[0] == "cgroup" and len(kind) > 1 else ()
        yield _Mount(controllers=frozenset(options), top=_unescape(place[3]), point=_unescape(place[4]))


def _unescape(field: str) -> PurePosixPath:
    return PurePosixPath(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field))


def _upwards(root: Path, mount: _Mount, group: PurePosixPath) -> Iterator[Path]:
    below = group.relative_to(mount.top).parts if group.is_relative_to(mount.top) else ()
    if ".." in below:  # a group outside the namespace of this process
        below = ()
    point = root.joinpath(*(part for part in mount.point.parts if part not in ("/", "//", "..")))
    for depth in range(len(below), -1, -1):
        yield point.joinpath(*below[:depth])
