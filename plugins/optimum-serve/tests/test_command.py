"""`optimum-core serve` as a process of its own, where neither torch nor transformers can be imported."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from waiting import until

#: Makes a process one where neither is installed, and runs the command.
ALONE = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in ("torch", "transformers") else find(name, *rest)
from optimum_core.cli import main
main()
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/ready").status_code == 200
    return False


@pytest.fixture
def process(artifacts: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = _free_port()
    names = [str(artifacts / "encoder"), f"chat={artifacts / 'writer'}"]
    command = [sys.executable, "-c", ALONE, "serve", *names, "--port", str(port)]
    environment = {**os.environ, "OPTIMUM_SERVE_MAX_INPUTS": "3"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as started:
        yield started, f"http://127.0.0.1:{port}"
        started.kill()


def test_it_serves_without_torch_and_ends_when_told(process: tuple[subprocess.Popen[str], str]) -> None:
    started, url = process
    until(lambda: started.poll() is not None or _is_ready(url))
    assert started.poll() is None
    assert len(httpx.post(f"{url}/embed", json={"inputs": ["w5", "w6"]}).json()) == 2
    assert httpx.post(f"{url}/embed", json={"inputs": ["w5"] * 4}).status_code == 413
    chat = {"model": "chat", "messages": [{"role": "user", "content": "private"}], "max_tokens": 3}
    assert httpx.post(f"{url}/v1/chat/completions", json=chat).json()["usage"]["completion_tokens"] <= 3
    started.send_signal(signal.SIGTERM)
    _, errors = started.communicate(timeout=240)
    assert started.returncode in (0, -signal.SIGTERM, 143)
    lines = [json.loads(line) for line in errors.splitlines()]
    requests = [(line["path"], line["status"], line["model"]) for line in lines if line["message"] == "request"]
    assert ("/embed", 413, "encoder") in requests and ("/v1/chat/completions", 200, "chat") in requests
    assert "private" not in errors


def test_wrong_settings_end_it_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optimum_core", "serve", str(tmp_path), "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "port" in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told(artifacts: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "optimum_core", "serve", str(artifacts / "encoder"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and port in done.stderr and "choose another" in done.stderr
    assert "Traceback" not in done.stderr and "\\u001b" not in done.stderr
