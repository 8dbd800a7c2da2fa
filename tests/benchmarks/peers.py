"""Other libraries, each in an environment of its own: none installs beside the transformers used here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from optimum_core.errors import SessionError, UnavailableError

_PROGRAM = Path(__file__).parent / "children" / "peer.py"
_HOMES = Path(sys.prefix) / "peers"
_TORCH = "torch==2.13.0"
#: What pip is asked for, by name; each brings the newest transformers that it accepts.
PEERS: Mapping[str, Sequence[str]] = {
    "optimum-onnx": ("optimum-onnx[onnxruntime]==0.1.0", "datasets"),
    "optimum-intel": ("optimum-intel[openvino]==2.2.0", "nncf", "datasets"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A process that has quantized a model.

    Attributes:
        ways: by the library's name for them: size in bytes, accuracy and seconds, or a problem in words.
        versions: of what it runs on.
    """

    name: str
    ways: Mapping[str, Mapping[str, Any]]
    versions: str
    process: subprocess.Popen[str]

    def times(self, way: str, shape: int, seconds: float) -> list[float]:
        """Milliseconds of calls at the shape of that number, made for so long."""
        assert self.process.stdin is not None
        asked = {"way": list(self.ways).index(way), "shape": shape, "seconds": seconds}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        found: list[float] = json.loads(_line(self.process, self.name))
        return found


@contextmanager
def running(name: str, model: Path, rows: Path, folder: Path) -> Iterator[Peer]:
    """Let a peer quantize the model in `folder`, and keep it for timing.

    Args:
        rows: batches, as `children/peer.py` reads them.

    Raises:
        UnavailableError: pip cannot install it.
        SessionError: its process ends.
    """
    python = python_of(name, PEERS[name])
    folder.mkdir()
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    command = [str(python), str(_PROGRAM), name, str(model), str(rows), str(folder)]
    with TemporaryFile("w+", encoding="utf-8") as remarks:  # a pipe that is not read would stop it when full
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=remarks,
            text=True,
            env=surroundings,
            cwd=folder,  # optimum-onnx leaves a file where it is called
        )
        with process:
            try:
                ways = json.loads(_line(process, name))
            except SessionError as error:
                remarks.seek(0)
                raise SessionError(error.who, error.why, f"read its output:\n{remarks.read()[-4000:]}") from error
            yield Peer(name=name, ways=ways, versions=versions_of(python), process=process)


def _line(process: subprocess.Popen[str], name: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SessionError(f"benchmark quantization, {name}", f"it ended with {process.wait()}", "read its output")
    return line


def python_of(name: str, packages: Sequence[str], *, torch: bool = True) -> Path:
    """The interpreter of an environment with these packages, which is made when it is first asked for.

    Args:
        torch: install the torch that is used here, too.

    Raises:
        UnavailableError: pip cannot install them.
    """
    home = _HOMES / name
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = home / ".installed"
    if done.is_file():
        return python
    shutil.rmtree(home, ignore_errors=True)
    wanted = (_TORCH, *packages) if torch else packages
    commands = (
        [sys.executable, "-m", "venv", str(home)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
        # Built for another torch than this machine may have, it would keep transformers from being imported.
        [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"],
    )
    for command in commands:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise UnavailableError(f"benchmark beside {name}", last, "give pip a package index; or leave it out")
    done.touch()
    return python


def versions_of(python: Path) -> str:
    """Return the versions that an environment runs on."""
    listed = subprocess.run([str(python), "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    runtimes = ("cyllama", "nncf", "onnxruntime", "openvino", "torch", "transformers")
    servers = ("fastapi", "infinity-emb", "litserve")
    wanted = (*runtimes, *servers, "optimum-intel", "optimum-onnx", "sentence-transformers")
    return ", ".join(
        f"{item['name']} {item['version']}" for item in json.loads(listed.stdout) if item["name"] in wanted
    )
