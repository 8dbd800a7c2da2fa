"""The archive of a bundle: models, wheels, a start script, licences and checksums."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from optimum_core.errors import ArtifactError
from optimum_serve.bundling import licences
from optimum_serve.bundling.wheels import WheelRequest, collect

SUFFIXES: Mapping[str, Literal["w", "w:gz"]] = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
_SUMS = "SHA256SUMS"
_README = """# A server of accelerated models

    ./start.sh --host 0.0.0.0 --port 8000

installs the packages in `wheels` into an environment of its own, once and without a package index, and serves:

{models}

It needs Python {python} on {platform}, and nothing else. `python3 check.py` compares the files with their checksums;
LICENCES.txt lists licences.
"""


def write_bundle(models: Mapping[str, Path], request: WheelRequest, out: Path) -> Path:
    """Write the archive, whole or not at all, and return its path.

    Args:
        models: directories of artifacts by the names that they are served under.
        out: a name that ends with one of `SUFFIXES`; a top folder of its stem holds all.

    Raises:
        ArtifactError: it cannot be written.
        UnavailableError: a wheel cannot be had.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".bundle-", dir=out.parent) as temporary:
            root = Path(temporary) / top_folder(out)
            _fill(root, models, request)
            with tarfile.open(part, SUFFIXES[_suffix(out)]) as archive:
                for file in sorted(path for path in root.rglob("*") if path.is_file()):
                    archive.add(file, f"{root.name}/{file.relative_to(root).as_posix()}", filter=_plain)
        return part.replace(out)
    except OSError as error:
        raise ArtifactError(f"bundle {out}", f"it cannot be written: {error}", "choose another place") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def top_folder(out: Path) -> str:
    """Return the folder that holds all in an archive of this name."""
    return out.name.removesuffix(_suffix(out))


def _suffix(out: Path) -> str:
    return next(suffix for suffix in SUFFIXES if out.name.endswith(suffix))


def _fill(root: Path, models: Mapping[str, Path], request: WheelRequest) -> None:
    requirements = collect(request, root / "wheels")
    for name, directory in models.items():
        shutil.copytree(directory, root / "models" / name)
    served = " ".join(shlex.quote(f"{name}=models/{name}") for name in models)
    start = _own("start.sh").replace("@PYTHON@", request.python).replace("@MODELS@", served)
    _write(root / "start.sh", start)
    (root / "start.sh").chmod(0o755)
    _write(root / "check.py", _own("check.py"))
    _write(root / "requirements.txt", "\n".join(requirements) + "\n")
    platform = ", ".join(request.platforms) or "the platform that it was made on"
    lines = "\n".join(f"- `{name}`" for name in models)
    _write(root / "README.md", _README.format(models=lines, python=request.python, platform=platform))
    _write_licences(root, models)
    _write(root / _SUMS, _sums(root))


def _write_licences(root: Path, models: Mapping[str, Path]) -> None:
    found = [licences.of_wheel(wheel) for wheel in sorted((root / "wheels").glob("*.whl"))]
    for one in found:
        folder = root / "licences" / f"{one.name}-{one.version}"
        for name, text in one.texts.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text)
    stated = [(name, licences.of_model(directory)) for name, directory in models.items()]
    _write(root / "LICENCES.txt", licences.listed(found, stated))


def _sums(root: Path) -> str:
    lines = []
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            lines.append(f"{hashlib.file_digest(stream, 'sha256').hexdigest()}  {file.relative_to(root).as_posix()}")
    return "\n".join(lines) + "\n"


def _own(name: str) -> str:
    return (files("optimum_serve.bundling") / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an entry without owner and time, so that equal contents give equal archives."""
    return entry.replace(mtime=0, uid=0, gid=0, uname="", gname="", deep=False)
