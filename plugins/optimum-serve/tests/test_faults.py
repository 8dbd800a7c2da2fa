"""Faults from outside: requests without sense, slow and lost clients, a full disk, a killed process. Nothing hangs, no
traceback leaves, and no accepted request is lost without an answer."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from requests_by_hand import TENSOR, TEXT, Send
from waiting import until

_CHAT = b'{"messages": [{"role": "user", "content": "a"}], %s}'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", b'{"inputs": NaN}'),
        ("/embed", b'{"inputs": "w5", "dimensions": 1e999}'),
        ("/embed", b'{"inputs": "w5", "dimensions": -5}'),
        ("/embed", b'{"inputs": "w5", "dimensions": 0}'),
        ("/embed", b'{"inputs": "w5", "dimensions": 99999}'),
        ("/embed", b'{"inputs": "w5", "dimensions": %s}' % (b"9" * 5000)),
        ("/embed", b'{"inputs": "\\ud800 w5"}'),
        ("/embed", b'{"inputs": "\\udfff"}'),
        ("/embed", b'\xef\xbb\xbf{"inputs": "w5"}'),
        ("/embed", b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("/embed", b'{"a": ' * 5000 + b"1" + b"}" * 5000),
        ("/models/encoder", b'{"inputs": ' * 5000 + b"1" + b"}" * 5000),
        ("/models/encoder", b'{"inputs": "w5", "parameters": [1]}'),
        ("/models/classifier/predict", b'{"inputs": "w5", "top_k": -1}'),
        ("/v1/embeddings", b'{"input": [%s]}' % (b"9" * 400)),
        ("/v1/embeddings", b'{"input": [-1]}'),
        ("/v1/embeddings", b'{"input": [1e5]}'),
        ("/v1/embeddings", b'{"input": "w5", "dimensions": %s}' % (b"9" * 400)),
        ("/v1/completions", TEXT % b'"temperature": NaN'),
        ("/v1/completions", TEXT % b'"temperature": 1e999'),
        ("/v1/completions", TEXT % b'"seed": %s' % (b"9" * 400)),
        ("/v1/completions", TEXT % b'"temperature": 1, "top_k": -3'),
        ("/v1/completions", TEXT % b'"repetition_penalty": 1e-300, "temperature": 1'),
        ("/v1/completions", TEXT % b'"repetition_penalty": 1e308'),
        ("/v1/completions", TEXT % b'"top_p": 7'),
        ("/v1/completions", TEXT % b'"n": 99999999999999999999'),
        ("/v1/completions", b'{"prompt": "ab", "max_tokens": %s}' % (b"9" * 400)),
        ("/v1/completions", b'{"prompt": "ab", "max_tokens": -1}'),
        ("/v1/completions", b'{"prompt": ""}'),
        ("/v1/completions", b'{"prompt": "\\ud800"}'),
        ("/v1/chat/completions", _CHAT % b'"messages": 1'),
        ("/v1/chat/completions", b'{"messages": [{"role": "\\ud800", "content": "a"}]}'),
        ("/embed", b'{"inputs": "\xff"}'),
        ("/v1/completions", b'{"prompt": "\xed\xa0\x80"}'),
        ("/models/encoder", b'{"inputs": "\xff"}'),
        ("/v2/repository/index", b'{"ready": "\xff"}'),
        ("/v2/models/classifier/infer", TENSOR.replace(b"input_ids", b"\xff") % (b"[1, 1]", b"[5]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 9999999999999999999999]", b"[1]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[4294967296, 4294967296]", b"[]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 1]", b"[1e999]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 1]", b"[%s]" % (b"9" * 400))),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 1]", b'[{"a": 1}]')),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 2]", b"[[2], [2, 3]]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 2]", b"[[1, true]]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[1, 1]", b"[" * 5000 + b"]" * 5000)),
        ("/v2/models/classifier/infer", TENSOR % (b"[-1, -1]", b"[1]")),
        ("/v2/models/classifier/infer", TENSOR % (b"[0, 4]", b"[]")),
        ("/v2/models/classifier/infer", TENSOR.replace(b"INT64", b"INT8") % (b"[1, 1]", b"[261]")),
        ("/v2/models/classifier/infer", TENSOR.replace(b"INT64", b"UINT8") % (b"[1, 1]", b"[-251]")),
    ],
)  # fmt: skip
def test_hostile_json_is_refused_and_told_why(path: str, body: bytes, send: Send) -> None:
    answer = send(path, body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"] and "Traceback" not in answer.text
    assert send("/embed", b'{"inputs": "w5"}').status_code == 200


def test_of_a_key_that_comes_twice_the_last_one_is_meant(send: Send) -> None:
    assert send("/embed", b'{"inputs": "w5", "inputs": "w9"}').json() == send("/embed", b'{"inputs": "w9"}').json()


def test_a_text_of_a_million_tokens_holds_up_none_of_the_others(live: Any, send: Send) -> None:
    body = json.dumps({"inputs": "w5 " * 1_000_000}).encode()

    def answered_meanwhile() -> int:
        statuses: list[int] = []
        long = threading.Thread(target=lambda: statuses.append(send("/embed", body).status_code))
        long.start()
        others = 0
        while long.is_alive():
            assert send("/embed", b'{"inputs": "w5"}').status_code == 200
            others += 1
            time.sleep(0.02)
        assert statuses == [413]
        return others

    # Several times, as the client itself may be held up meanwhile.
    assert any(answered_meanwhile() > 1 for _ in range(5))


# Clients that are slow, or go away.


def _connection(live: Any) -> socket.socket:
    host, port = live.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=120)


def _head(length: int, path: str = "/embed") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), length)


def test_a_body_that_comes_byte_by_byte_is_answered(live: Any) -> None:
    body = b'{"inputs": "w5"}'
    with _connection(live) as slow:
        for byte in (b"", *(body[place : place + 1] for place in range(len(body)))):
            slow.sendall(byte or _head(len(body)))
            time.sleep(0.01)
        assert slow.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /embed HTT", b"POST /embed HTTP/1.1\r\nHost: a\r\n"])
def test_headers_that_do_not_come_end_the_connection(sent: bytes, slow_live: Any) -> None:
    with _connection(slow_live) as slow:
        slow.sendall(sent)
        with suppress(ConnectionResetError):
            assert slow.recv(100) == b""


def test_headers_without_end_are_refused(live: Any) -> None:
    with _connection(live) as endless, suppress(ConnectionError):
        endless.sendall(b"POST /embed HTTP/1.1\r\n")
        for number in range(100):
            endless.sendall(b"X-%d: %s\r\n" % (number, b"a" * 10_000))
        assert endless.recv(100).startswith(b"HTTP/1.1 400")
    assert live.client.post("/embed", json={"inputs": "w5"}).status_code == 200


def test_half_a_body_and_then_nothing_harms_no_other(live: Any, caplog: pytest.LogCaptureFixture) -> None:
    for rest in (b'{"inputs"', b""):
        with _connection(live) as lost:
            lost.sendall(_head(1000) + rest)
    with _connection(live) as lost:
        lost.sendall(b"POST /embed HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n{")
    assert live.client.post("/embed", json={"inputs": "w5"}).status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


def test_an_answer_that_its_client_does_not_take_is_given_up(slow_live: Any) -> None:
    body = json.dumps({"inputs": ["w5 " * 60] * 1024}).encode()
    end = time.monotonic() + 240
    with socket.socket() as idle, pytest.raises(ConnectionError):
        idle.settimeout(240)
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = slow_live.url.removeprefix("http://").split(":")
        idle.connect((host, int(port)))
        while time.monotonic() < end:  # more answers than the system keeps on their way
            idle.sendall(_head(len(body), "/tokenize") + body)
            time.sleep(0.02)
    assert slow_live.client.post("/embed", json={"inputs": "w5"}).status_code == 200


def test_bodies_that_come_at_once_do_not_fill_the_memory(serve: Any) -> None:
    live = serve("encoder", max_bodies=1000)
    bodies = live.app.state.server.bodies
    body = json.dumps({"inputs": "w5"}).encode().ljust(700)
    with _connection(live) as first, _connection(live) as second:
        first.sendall(_head(len(body)) + body[:600])
        until(lambda: bodies.held == 600)
        second.sendall(_head(len(body)) + body)
        answer = second.recv(1000)
        assert answer.startswith(b"HTTP/1.1 429") and b"retry-after" in answer.lower()
        first.sendall(body[600:])
        assert first.recv(100).startswith(b"HTTP/1.1 200")
    until(lambda: bodies.held == 0)
    assert live.client.post("/embed", content=body).status_code == 200
    large = json.dumps({"inputs": "w5 " * 500, "truncate": True})
    assert live.client.post("/embed", content=large).status_code == 200  # one alone may be larger than the room for all
    live.stop()


@pytest.fixture(scope="module")
def slow_live(serve: Any) -> Any:
    """A server that waits for half a second only."""
    return serve("encoder", body_timeout=0.5)


def test_thousands_of_idle_connections_leave_it_answering(live: Any) -> None:
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 5000:
        pytest.skip("this system allows a process few files")
    with ExitStack() as stack:
        idle = [stack.enter_context(_connection(live)) for _ in range(2000)]
        assert live.client.post("/embed", json={"inputs": "w5"}).status_code == 200
        body = b'{"inputs": "w9"}'
        idle[-1].sendall(_head(len(body)) + body)
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200")


# The end.


def _until_closed(url: str, outcomes: list[str], answered: Callable[[], object] = lambda: None) -> None:
    """Ask on one connection until an answer says that it is the last one; call `answered` after the first."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.connect()
    connection.auto_open = 0
    try:
        for number in itertools.count():
            connection.request("POST", "/embed", b'{"inputs": "w5"}')
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200 or answer.will_close:
                break
            if not number:
                answered()
        outcomes.append(f"{answer.status}, closed")
    except (OSError, http.client.HTTPException) as error:
        outcomes.append(repr(error))


def test_told_to_stop_it_answers_the_last_request_of_every_connection(serve: Any) -> None:
    live = serve("encoder")
    outcomes: list[str] = []
    connected = threading.Barrier(13)
    wait = partial(connected.wait, 120)
    threads = [threading.Thread(target=_until_closed, args=(live.url, outcomes, wait)) for _ in range(12)]
    for thread in threads:
        thread.start()
    wait()
    live.stop()
    for thread in threads:
        thread.join(240)
    assert outcomes == ["200, closed"] * 12


def test_connections_that_come_while_it_stops_are_answered_once(serve: Any) -> None:
    live = serve("encoder")
    live._server.config.http.is_stopping = True
    outcomes: list[str] = []
    _until_closed(live.url, outcomes)
    assert outcomes == ["200, closed"]
    with _connection(live) as idle:
        assert idle.recv(100) == b""
    live.stop()


# The disk, and the process.


def test_without_a_place_for_temporary_files_large_pictures_are_read(
    live: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    pixels = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) > 1_500_000
    answer = live.client.post("/models/pictures/predict", files=[("file", ("a.png", file.getvalue(), "image/png"))])
    assert answer.status_code == 200, answer.text


class _Process:
    """A server as a process of its own, whose log goes to a file; started anew at the same port."""

    def __init__(self, directory: Path, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self._directory, self._log = directory, log
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        command = [sys.executable, "-m", "optimum_core", "serve", str(self._directory), "--port", str(self._port)]
        with self._log.open("ab") as log:
            self.running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        until(lambda: self.running.poll() is not None or self._is_ready())
        assert self.running.poll() is None

    def _is_ready(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready").status_code == 200
        return False

    def kill(self) -> None:
        """Kill it as a lack of memory does."""
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()


@pytest.fixture
def process(artifacts: Path, tmp_path: Path) -> Iterator[Callable[[Path], _Process]]:
    started: list[_Process] = []

    def start(log: Path) -> _Process:
        started.append(_Process(artifacts / "encoder", log))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_killed_it_leaves_no_request_waiting_and_starts_again(process: Any, tmp_path: Path) -> None:
    server = process(tmp_path / "log")
    outcomes: list[Any] = []

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=240) as client:
            with suppress(httpx.TransportError):
                while True:
                    outcomes.append(client.post("/embed", json={"inputs": "w5"}).status_code)
            outcomes.append("lost")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(outcomes) >= 20)
    server.kill()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert outcomes.count("lost") == 4 and set(outcomes) == {200, "lost"}
    server.start()
    assert httpx.post(f"{server.url}/embed", json={"inputs": "w5"}).status_code == 200


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither signal")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_told_to_end_it_answers_what_it_has_accepted(number: str, process: Any, tmp_path: Path) -> None:
    before = signal.signal(getattr(signal, number), signal.SIG_DFL)  # the server keeps it ignored under `nohup`
    try:
        server, body = process(tmp_path / "log"), b'{"inputs": "w5"}'
    finally:
        signal.signal(getattr(signal, number), before)
    with _connection(server) as half:
        half.sendall(_head(len(body)) + body[:5])
        until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)  # the head has been read before this
        server.running.send_signal(getattr(signal, number))
        until(lambda: "Shutting down" in (tmp_path / "log").read_text("utf-8"))
        half.sendall(body[5:])
        answer = half.recv(1000)
        assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer.lower()
    assert server.running.wait(240) == 128 + getattr(signal, number)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_on_a_full_disk_it_answers_without_its_log(process: Any) -> None:
    server = process(Path("/dev/full"))
    for _ in range(3):
        assert httpx.post(f"{server.url}/embed", json={"inputs": "w5"}).status_code == 200
    assert httpx.post(f"{server.url}/embed", content=b"{").status_code == 400
