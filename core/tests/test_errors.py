"""Faults of the moment are told from what cannot be done, whatever library met them."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from optimum_core.errors import (
    ExportError,
    OptimumError,
    ResourceError,
    SessionError,
    ended,
    is_momentary,
    momentary,
    noticing_full_disks,
    translated,
)
from optimum_core.hookspecs import hookimpl
from optimum_core.plugins import PluginManager
from optimum_core.types import ExportRequest


def _full() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("x" * 100_000)


def _wrapped() -> None:
    try:
        _full()
    except OSError as error:
        raise SessionError("backend 'x'", "it failed", "nothing") from error


def _memory() -> None:
    bytearray(1 << 62)


def _killed() -> None:
    subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], check=True)


def _said(text: str) -> None:
    raise RuntimeError(text)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("fail", [_full, _wrapped])
def test_a_full_disk_is_of_the_moment(fail: object) -> None:
    with pytest.raises((OSError, OptimumError)) as caught:
        fail()  # type: ignore[operator]
    assert is_momentary(caught.value)


@pytest.mark.parametrize("fail", [_memory, _killed])
def test_no_memory_and_a_killed_process_are_of_the_moment(fail: object) -> None:
    with pytest.raises((MemoryError, OverflowError, subprocess.CalledProcessError)) as caught:
        fail()  # type: ignore[operator]
    assert is_momentary(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("std::bad_alloc"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (ValueError("shapes do not match"), False),
        (ExportError("x", "an operator is unknown", "y"), False),
        (subprocess.CalledProcessError(-11, "x"), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_of_the_moment(error: BaseException, expected: bool) -> None:
    assert is_momentary(error) is expected
    assert type(translated(error, ExportError, "who", "why", "remedy")) is (ResourceError if expected else ExportError)


def test_an_error_keeps_its_words() -> None:
    plain = SessionError("backend 'x'", "it failed", "do that")
    assert momentary(plain) is plain
    plain.__cause__ = MemoryError()
    found = momentary(plain)
    assert (type(found), found.who, found.why) == (ResourceError, "backend 'x'", "it failed")


@pytest.mark.parametrize(
    ("code", "said", "kind", "why"),
    [
        (-11, "", ExportError, "the process that optimized it ended by signal 11 (SIGSEGV)"),
        (-9, "", ResourceError, "the process that optimized it ended by signal 9 (SIGKILL)"),
        (3, "", ExportError, "the process that optimized it ended with code 3"),
        (1, "ValueError: no", ExportError, "ValueError: no"),
        (
            1,
            "OSError: [Errno 28] No space left on device",
            ResourceError,
            "OSError: [Errno 28] No space left on device",
        ),
    ],
)
def test_how_a_process_ended(code: int, said: str, kind: type[OptimumError], why: str) -> None:
    error = ended(code, ExportError, "backend 'x'", "optimized it", said, "use another level")
    assert (type(error), error.why) == (kind, why)


def test_any_failure_beside_a_full_disk_is_put_down_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Native writers have words of their own for it: "iostream error", "Protobuf serialization failed"."""
    with pytest.raises(RuntimeError, match="iostream"), noticing_full_disks(tmp_path, "backend 'x'"):
        _said("basic_ios::clear: iostream error")
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=4096)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with (
        pytest.raises(ResourceError, match=r"no room is left in .*iostream error"),
        noticing_full_disks(tmp_path, "backend 'x'"),
    ):
        _said("basic_ios::clear: iostream error")


class _Failing:
    def __init__(self, wrapped: bool) -> None:
        self.wrapped = wrapped

    @hookimpl
    def export(self, request: ExportRequest) -> None:
        try:
            raise MemoryError("no room for 3 GiB")
        except MemoryError as error:
            if self.wrapped:
                raise SessionError("backend 'bad'", "it failed", "ask its authors") from error
            raise


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_hook_raises_for_a_lack_of_memory_is_one(wrapped: bool, tmp_path: Path) -> None:
    plugins = PluginManager([])
    plugins.register(_Failing(wrapped), "bad")
    request = ExportRequest(
        backend="bad",
        source=None,  # type: ignore[arg-type]
        task="custom",
        format="x",
        precision="fp32",
        samples={},
        inputs=(),
        outputs=(),
        output=tmp_path,
    )
    with pytest.raises(ResourceError, match="it failed" if wrapped else "no room for 3 GiB"):
        plugins.export(request)
