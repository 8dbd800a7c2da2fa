"""Wheels of all that a server of some models needs, in the versions that are installed here."""

from __future__ import annotations

import ensurepip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from optimum_core.errors import UnavailableError

_WHO, _SERVER = "bundle", "optimum-serve"


@dataclass(frozen=True, kw_only=True, slots=True)
class WheelRequest:
    """The wheels to collect.

    Attributes:
        packages: requirements, such as "optimum-serve[pictures]".
        python: the version of the target, as "3.11"; `platforms`: its tags, as "manylinux_2_28_aarch64"; none: those of
            this machine.
        folders: directories to look in first.
        offline: look nowhere else.
    """

    packages: Sequence[str]
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"
    platforms: Sequence[str] = ()
    folders: Sequence[Path] = field(default_factory=tuple)
    offline: bool = False


def collect(request: WheelRequest, into: Path) -> list[str]:
    """Put the wheels into a directory; return the requirements of the whole, with their versions.

    Raises:
        UnavailableError: a package is not installed here, or a wheel cannot be had.
    """
    into.mkdir(parents=True)
    found = dict(_needed(request.packages))
    local = [_wheel(name, source, request, into) for name, one in found.items() if (source := _local(one)) is not None]
    pins = [f"{one.metadata['Name']}=={one.version}" for one in found.values()]
    (into / "constraints.txt").write_text("\n".join(pins) + "\n", encoding="utf-8")
    try:
        _download(request, local, into)
    except UnavailableError as error:
        missing = [f"{name}=={one.version}" for name, one in found.items() if not _is_in(name, one, into, request)]
        raise (_absent(missing, request) if request.offline and missing else error) from error
    (into / "constraints.txt").unlink()
    return [f"{package}=={found[canonicalize_name(Requirement(package).name)].version}" for package in request.packages]


def without_missing(request: WheelRequest, tell: Callable[[str], None]) -> WheelRequest:
    """Return the request without the extras of backends whose wheels cannot be had for another machine; tell of each.

    On this machine, what is installed was had.
    """
    if not request.platforms:
        return request
    packages = []
    for text in request.packages:
        package = Requirement(text)
        for extra in sorted(package.extras if package.name != _SERVER else ()):
            if missing := [name for name in names_of(distribution(package.name), extra) if not _has(name, request)]:
                told = f"no wheel of {', '.join(missing)} was found for that machine, and the bundle is without it"
                tell(f"{told}: the server works without, and texts at once may wait longer")
                package.extras.discard(extra)
        packages.append(str(package))
    return replace(request, packages=packages)


def names_of(package: Distribution, extra: str) -> list[str]:
    """Return the distributions that an extra of a package needs beyond those of the package itself."""
    needed = [Requirement(text) for text in package.requires or ()]
    return [one.name for one in needed if not _applies(one, ()) and _applies(one, (extra,))]


def _has(name: str, request: WheelRequest) -> bool:
    """Whether the wheel of a package that is installed here can be had for the target."""
    with TemporaryDirectory() as scratch:
        wanted = f"{name}=={distribution(name).version}"
        try:
            _pip(["download", "--no-deps", *_origin(request, scratch), wanted], f"no wheel of {name}", "")
        except UnavailableError:
            return False
    return True


def _needed(packages: Sequence[str]) -> Iterator[tuple[str, Distribution]]:
    """Yield the distributions that packages need, themselves among them, as far as they are installed."""
    waiting, seen = [(Requirement(package), True) for package in packages], set[tuple[str, frozenset[str]]]()
    while waiting:
        wanted, is_asked = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            one = distribution(wanted.name)
        except PackageNotFoundError as error:
            if is_asked:
                remedy = f"pip install {wanted.name}"
                raise UnavailableError(_WHO, f"{wanted.name} is not installed here", remedy) from error
            continue  # for another platform, or left out here
        yield key[0], one
        for text in one.requires or ():
            needed = Requirement(text)
            if _applies(needed, wanted.extras):
                waiting.append((needed, False))


def _applies(needed: Requirement, extras: Iterable[str]) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _local(one: Distribution) -> Path | None:
    """Return the directory that a package was installed from; None: it came from an index."""
    stated = json.loads(one.read_text("direct_url.json") or "{}")
    if "dir_info" not in stated:
        return None
    return Path(url2pathname(urlsplit(stated["url"]).path))


def _wheel(name: str, source: Path, request: WheelRequest, into: Path) -> Path:
    """Return the wheel of a package that did not come from an index: from the folders, or built."""
    if (given := _named(name, request.folders)) is not None:
        return given
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(into), str(source)]
    why = f"the wheel of {name} cannot be built from {source}"
    _pip(command, why, "pip install hatchling, or pass --wheels")
    if (built := _named(name, [into])) is None:
        raise UnavailableError(_WHO, f"{why}: there is none after that", "pass --wheels")
    return built


def _named(name: str, folders: Sequence[Path]) -> Path | None:
    wheels = [file for folder in folders for file in sorted(folder.glob("*.whl"))]
    return next((file for file in wheels if canonicalize_name(file.name.split("-")[0]) == name), None)


def _is_in(name: str, one: Distribution, into: Path, request: WheelRequest) -> bool:
    """Whether a wheel of a distribution in its version is in the folders."""
    parts = [file.name.split("-") for folder in (into, *request.folders) for file in folder.glob("*.whl")]
    return any(canonicalize_name(found) == name and version == one.version for found, version, *_ in parts)


def _absent(missing: Sequence[str], request: WheelRequest) -> UnavailableError:
    """Return the error of wheels that no folder has, with the command that fetches them on another machine."""
    command = ["pip", "download", "--no-deps", "--only-binary", ":all:", *_target(request), "-d", "wheels", *missing]
    remedy = f"on a machine with an index of packages: {' '.join(command)}; then pass that directory as --wheels"
    others = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
    why = f"no wheel of {', '.join(missing[:3])}{others} is in the directories of --wheels"
    return UnavailableError(_WHO, why, remedy)


def _download(request: WheelRequest, local: Sequence[Path], into: Path) -> None:
    """Fetch all wheels, or copy them from the folders; pip itself comes with Python, as far as it does.

    Args:
        local: wheels of packages that are not asked of an index, where others may have their names.
    """
    bundled = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    for wheel in bundled[-1:]:
        shutil.copy(wheel, into)
    command = [
        "download", *_origin(request, into), "--constraint", str(into / "constraints.txt"),
        *request.packages, *map(str, local), *(() if bundled else ("pip",)),
    ]  # fmt: skip
    _pip(command, "not all wheels can be had", "see what pip says; --wheels names a directory that has them")


def _origin(request: WheelRequest, into: Path | str) -> list[str]:
    """Return pip's options for where wheels come from, where they go, and for which machine they are."""
    folders = [part for folder in (into, *request.folders) for part in ("--find-links", str(folder))]
    place = ["--quiet", "--only-binary", ":all:", "--dest", str(into)]
    return [*place, *folders, *_target(request), *(["--no-index"] if request.offline else [])]


def _target(request: WheelRequest) -> list[str]:
    target = [part for platform in request.platforms for part in ("--platform", platform)]
    return [*target, "--python-version", request.python, "--implementation", "cp"] if target else []


def _pip(arguments: Sequence[str], why: str, remedy: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(_WHO, f"{why}: {done.stderr.strip()[-1500:]}", remedy)
