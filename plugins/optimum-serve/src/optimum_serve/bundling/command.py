"""The verb `optimum-core bundle`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from optimum_core.errors import OptionError, PluginError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from optimum_core import AcceleratedModel

_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def bundle(
    models: Annotated[list[str], typer.Argument(help="Directories of saved models; NAME=… gives one its name.")],
    out: Annotated[Path, typer.Argument(help="The archive to write: .tar, .tar.gz or .tgz.")],
    python: Annotated[str, typer.Option(help="The target's version of Python.")] = _HERE,
    platform: Annotated[
        list[str] | None, typer.Option(help="The target's tag, as manylinux_2_28_aarch64; this machine's unless said.")
    ] = None,
    wheels: Annotated[list[Path] | None, typer.Option(help="A directory of wheels to take before an index's.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Take wheels from these directories alone.")] = False,
) -> None:
    """Write one archive that serves models where there is no package index: models, wheels, start script, licences."""
    from optimum_core import load
    from optimum_serve.bundling.archive import SUFFIXES, top_folder, write_bundle
    from optimum_serve.bundling.wheels import WheelRequest, without_missing

    if not out.name.endswith(tuple(SUFFIXES)):
        raise OptionError(f"bundle {out}", "its name says no form", f"end it with {', '.join(SUFFIXES)}")
    if python != _HERE and not platform:
        why = f"Python {python} is not this one, {_HERE}, and no platform was named"
        raise OptionError("bundle", why, "pass --platform too")
    places, packages = _by_name(models), ["optimum-serve"]
    with TemporaryDirectory() as scratch:
        for name, directory in places.items():
            with load(directory) as model:  # checks all of its files, and that it runs
                packages += _packages(model)
                if not (directory / "optimum.json").is_file():  # another package's: it is read once, here
                    places[name] = Path(scratch, name)
                    model.save_pretrained(places[name])
        request = WheelRequest(
            packages=list(dict.fromkeys(packages)), python=python, platforms=platform or (), folders=wheels or (),
            offline=offline,
        )  # fmt: skip
        written = write_bundle(places, without_missing(request, typer.echo), out)
    folder = top_folder(written)
    typer.echo(f"Wrote {written} ({written.stat().st_size / 2**20:.0f} MiB). There: tar xf, then {folder}/start.sh")


def _by_name(models: Sequence[str]) -> dict[str, Path]:
    """Return the directories by name.

    Raises:
        OptionError: two have one name, or one has none that a folder may have.
    """
    from optimum_serve.settings import ModelSettings, check_label, named

    found: dict[str, Path] = {}
    for one in map(named, models):
        stated = ModelSettings(source=one["source"], name=one.get("name", ""))
        check_label(stated.label, "bundle")
        if stated.label in found:
            raise OptionError("bundle", f"two models are named {stated.label!r}", "give one another name: NAME=…")
        found[stated.label] = Path(stated.source).expanduser()
    return found


def _packages(model: AcceleratedModel) -> list[str]:
    """Return the packages that run a model.

    Raises:
        PluginError: its backend comes from no installed distribution.
    """
    from importlib.metadata import entry_points

    from optimum_core.backend import detect, manager

    found = entry_points(group="optimum.backends", name=model.backend)
    sources = [entry.dist for entry in found if entry.dist is not None]
    if not sources:
        why = "it belongs to no installed distribution, so that its package is not known"
        raise PluginError(f"backend {model.backend!r}", why, "accelerate for a backend of an installed package")
    package = sources[0].name
    extras = manager().support(model.backend, detect()).generating_extras if model.can_generate() else ()
    missing = {extra: lacking for extra in extras if (lacking := _lacking(sources[0], extra))}
    for extra, lacking in missing.items():
        told = f"{', '.join(lacking)} is not installed here, and the bundle is without it"
        typer.echo(
            f"{told}: the server works without, and texts at once may wait longer (pip install '{package}[{extra}]')"
        )
    kept = ",".join(extra for extra in extras if extra not in missing)
    reads_pictures = any(spec.name == "pixel_values" for spec in model.manifest.inputs)
    return [f"{package}[{kept}]" if kept else package, *(["optimum-serve[pictures]"] if reads_pictures else [])]


def _lacking(package: Distribution, extra: str) -> list[str]:
    """Return the distributions that an extra of a package needs and that are not installed here."""
    from optimum_core.backend import versions
    from optimum_serve.bundling.wheels import names_of

    return [name for name in names_of(package, extra) if not versions([name])]
