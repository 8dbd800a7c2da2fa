"""The cache: complete entries only, made once, whichever process is killed and whenever."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimum_core.cache import Cache, content_key
from optimum_core.errors import ArtifactError, OptionError
from optimum_core.types import CaseResult, Measurement, Report

_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_PARTS = st.dictionaries(st.text(max_size=5), _JSON, max_size=4)


def alike(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout; 0.0 and -0.0 differ."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return repr(one) == repr(other)


def backwards(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(parts=_PARTS)
def test_the_order_of_mappings_does_not_change_a_key(parts: dict[str, Any]) -> None:
    assert content_key(backwards(parts)) == content_key(parts)


@given(parts=_PARTS, name=st.text(max_size=5), one=_JSON, other=_JSON)
def test_keys_are_equal_just_when_the_values_are(parts: dict[str, Any], name: str, one: Any, other: Any) -> None:
    same = content_key({**parts, name: one}) == content_key({**parts, name: other})
    assert same == alike(one, other)


@given(parts=_PARTS, others=_PARTS)
def test_other_parts_give_another_key(parts: dict[str, Any], others: dict[str, Any]) -> None:
    assert (content_key(parts) == content_key(others)) == alike(parts, others)


def test_values_that_python_takes_for_equal_give_different_keys() -> None:
    values = [1, 1.0, True, "1", None, [1], math.nan, math.inf, -math.inf, "nan"]
    assert len({content_key({"x": value}) for value in values}) == len(values)
    with pytest.raises(OptionError, match=r"\$\.x"):
        content_key({"x": object()})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fill(directory: Path) -> None:
    (directory / "model.bin").write_bytes(b"x" * 1000)


def test_an_entry_is_made_once_and_found_again(cache: Cache) -> None:
    assert cache.entry("export", "k") is None
    made = cache.build("export", "k", fill, describe="tiny, onnx")
    assert (made / "model.bin").stat().st_size == 1000
    assert cache.build("export", "k", lambda _: pytest.fail("made again")) == made
    assert Cache(cache.root).entry("export", "k") == made
    assert cache.entry("export", "other") is None
    (listed,) = cache.list()
    assert (listed.kind, listed.key, listed.description, listed.size) == ("export", "k", "tiny, onnx", 1000)
    assert listed.path == made
    assert listed.created.tzinfo is not None


def test_what_make_raises_is_passed_on_and_nothing_remains(cache: Cache) -> None:
    def fail(directory: Path) -> None:
        fill(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.build("export", "k", fail)
    assert cache.entry("export", "k") is None
    assert list((cache.root / "v2" / "export").iterdir()) == []
    cache.build("export", "k", fill)


def test_an_entry_half_there_is_no_entry_and_is_made_anew(cache: Cache) -> None:
    made = cache.build("export", "k", fill)
    (made.parent / "entry.json").unlink()
    assert cache.entry("export", "k") is None
    assert cache.list() == ()
    assert cache.build("export", "k", fill, describe="again") == made
    assert [entry.description for entry in cache.list()] == ["again"]


def test_a_discarded_entry_is_gone_also_from_within_the_lock(cache: Cache) -> None:
    cache.build("export", "k", fill)
    with cache.lock("export", "k"):
        cache.discard("export", "k")
        assert cache.entry("export", "k") is None
        cache.build("export", "k", fill)
    cache.discard("export", "k")
    cache.discard("export", "never")
    assert cache.list() == ()


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "A", "a.b", "a" * 101, "a\n"])
def test_names_that_are_no_names_are_refused(cache: Cache, name: str) -> None:
    for kind, key in ((name, "k"), ("export", name)):
        with pytest.raises(OptionError, match="no name"):
            cache.entry(kind, key)
        with pytest.raises(OptionError, match="no name"):
            cache.build(kind, key, fill)
    assert not cache.root.exists()


def test_a_thread_that_waits_is_told_once_and_takes_what_the_other_made(cache: Cache) -> None:
    waiting = threading.Event()
    calls: list[str] = []
    results: list[Path] = []

    def slow(directory: Path) -> None:
        other.start()
        assert waiting.wait(60)
        fill(directory)

    def on_wait() -> None:
        calls.append("wait")
        waiting.set()

    def second() -> None:
        results.append(cache.build("export", "k", lambda _: calls.append("made"), on_wait=on_wait))

    other = threading.Thread(target=second)
    first = cache.build("export", "k", slow)
    other.join(60)
    assert results == [first]
    assert calls == ["wait"]


_BUILDING = """
import sys, time
from pathlib import Path
from optimum_core.cache import Cache
root, started, count = map(Path, sys.argv[1:])
waited = started.with_name("waited")
def make(directory):
    with count.open("a") as stream:
        stream.write("made\\n")
    while not waited.exists():
        time.sleep(0.001)
    (directory / "a").write_text("a")
started.touch()
while len(list(started.parent.glob("*.started"))) < 2:
    time.sleep(0.001)
print(Cache(root).build("export", "k", make, on_wait=waited.touch))
"""


def test_two_processes_at_once_make_an_entry_once(tmp_path: Path, cache: Cache) -> None:
    count = tmp_path / "count"
    commands = [
        [sys.executable, "-c", _BUILDING, str(cache.root), str(tmp_path / f"{index}.started"), str(count)]
        for index in range(2)
    ]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = {child.communicate(timeout=500)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert answers == {str(cache.entry("export", "k"))}
    assert count.read_text() == "made\n"


_LOOPING = """
import itertools, sys
from pathlib import Path
from optimum_core.cache import Cache
cache = Cache(Path(sys.argv[1]))
print("ready", flush=True)
for turn in itertools.count():
    key = f"k{turn % 3}"
    def make(directory):
        for index in range(4):
            (directory / f"{index}.bin").write_bytes(key.encode() * 5000)
    cache.discard("export", key)
    cache.build("export", key, make, describe=key)
    cache.write_record("decision", key, {"turn": [turn] * 100})
"""


def test_killed_at_any_moment_every_visible_entry_is_complete(cache: Cache) -> None:
    chance = random.Random(0)
    for _ in range(20):
        with subprocess.Popen(
            [sys.executable, "-c", _LOOPING, str(cache.root)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.1))
            child.kill()
        for entry in cache.list():
            if entry.kind == "export":
                sizes = [file.stat().st_size for file in entry.path.iterdir()]
                assert sizes == [10_000] * 4
            else:
                assert cache.read_record("decision", entry.key, dict) is not None
    for key in ("k0", "k1", "k2"):
        cache.discard("export", key)
        cache.build("export", key, fill)
        cache.write_record("decision", key, {})
    left = [item.name for kind in (cache.root / "v2").iterdir() for item in kind.iterdir()]
    assert sorted(left) == ["k0", "k0", "k1", "k1", "k2", "k2"]


def test_clear_frees_what_is_old_and_what_the_dead_left(cache: Cache) -> None:
    for key in ("old", "new"):
        cache.build("export", key, fill)
    ago = (datetime.now(UTC) - timedelta(days=9)).timestamp()
    os.utime(cache.root / "v2" / "export" / "old" / "entry.json", (ago, ago))
    dead = cache.root / "v2" / "export" / ".gone.0123.tmp" / "data"
    dead.mkdir(parents=True)
    fill(dead)
    assert cache.clear(timedelta(days=30)) == 1000
    assert not dead.exists()
    assert len(cache.list()) == 2
    assert cache.clear(timedelta(days=7)) > 1000
    assert [entry.key for entry in cache.list()] == ["new"]
    assert cache.clear() > 1000
    assert cache.list() == ()
    assert cache.clear() == 0


def test_finding_an_entry_counts_as_use(cache: Cache) -> None:
    cache.build("export", "k", fill)
    os.utime(cache.root / "v2" / "export" / "k" / "entry.json", (0, 0))
    assert cache.list()[0].last_used.year == 1970
    cache.entry("export", "k")
    assert cache.clear(timedelta(days=1)) == 0


def test_clear_leaves_what_is_locked_by_this_thread_another_or_another_process(cache: Cache) -> None:
    for key in ("mine", "free"):
        cache.build("export", key, fill)
    code = (
        "import sys; from pathlib import Path; from optimum_core.cache import Cache\n"
        "def make(d):\n    print('ready', flush=True); sys.stdin.read()\n"
        "Cache(Path(sys.argv[1])).build('export', 'theirs', make)"
    )
    command = [sys.executable, "-c", code, str(cache.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with cache.lock("export", "mine"):
            cache.clear()
            thread = threading.Thread(target=cache.clear)
            thread.start()
            thread.join(60)
        assert [entry.key for entry in cache.list()] == ["mine"]
        child.communicate("", timeout=500)
    assert [entry.key for entry in cache.list()] == ["mine", "theirs"]


def _aged(cache: Cache, **days: float) -> None:
    for key, ago in days.items():
        cache.build("export", key, fill)
        used = (datetime.now(UTC) - timedelta(days=ago)).timestamp()
        os.utime(cache.root / "v2" / "export" / key / "entry.json", (used, used))


def _keys(cache: Cache) -> list[str]:
    return [entry.key for entry in cache.list()]


def test_the_least_recently_used_entries_give_way(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=3500)  # of entries of 1000 bytes
    _aged(cache, a=2, b=9, c=1)
    cache.entry("export", "b")  # a use
    cache.build("export", "d", fill)
    assert _keys(cache) == ["b", "c", "d"]


def test_what_was_just_built_stays_whatever_its_size(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=500)
    _aged(cache, a=2)
    assert _keys(cache) == ["a"]
    assert cache.build("export", "b", fill).is_dir()
    assert _keys(cache) == ["b"]


def test_what_is_locked_or_used_by_a_living_process_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=10**6)
    _aged(cache, free=5, locked=7, mine=8, theirs=9)
    code = (
        "import sys; from pathlib import Path; from optimum_core.cache import Cache\n"
        "cache = Cache(Path(sys.argv[1])); cache.hold(cache.entry('export', 'theirs'))\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(cache.root)]
    cache.limit = 0
    held = cache.root / "v2" / "export" / "mine" / "data"
    cache.hold(held)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        with cache.lock("export", "locked"):
            cache.build("export", "new", fill)
        assert _keys(cache) == ["locked", "mine", "new", "theirs"]
        cache.clear()
        assert _keys(cache) == ["mine", "theirs"]
        child.communicate("", timeout=500)
    cache.build("export", "newer", fill)
    assert _keys(cache) == ["mine", "newer"]  # the other process has ended


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("700", 700), ("64kb", 64_000), ("0", 0), ("2tib", 2**41)],
)
def test_the_limit_is_what_the_variable_says(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_SIZE", text)
    assert Cache().limit == size
    monkeypatch.delenv("OPTIMUM_CACHE_SIZE")
    assert Cache().limit == 50 * 10**9


@pytest.mark.parametrize("text", ["much", "-1GB", "20G", "1PB"])
def test_a_limit_that_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_SIZE", text)
    with pytest.raises(OptionError, match="such as 20GB"):
        Cache()


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.entry("export", "k") is None
    for action in (lambda: cache.build("export", "k", fill), lambda: cache.write_record("export", "k", 1)):
        with pytest.raises(ArtifactError) as caught:
            action()
        assert "OPTIMUM_CACHE_DIR" in caught.value.remedy
        assert str(cache.root) in caught.value.who


def test_the_root_is_what_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMUM_CACHE_DIR", str(tmp_path / "mine"))
    assert Cache().root == tmp_path / "mine"
    monkeypatch.delenv("OPTIMUM_CACHE_DIR")
    assert "optimum-core" in Cache().root.parts
    assert list(tmp_path.iterdir()) == []


def test_records_keep_dataclasses_and_are_replaced(cache: Cache) -> None:
    report = Report(model="m", task="t", workload=("1x8",), candidates=())
    assert cache.read_record("decision", "k", Report) is None
    cache.write_record("decision", "k", report)
    assert cache.read_record("decision", "k", Report) == report
    case = CaseResult(case="", shapes={}, output="", relative_error=math.inf, cosine=0, agreement=None, passed=False)
    cache.write_record("decision", "k", case)
    assert cache.read_record("decision", "k", CaseResult) == case
    assert cache.read_record("decision", "k", Report) is None


def test_an_altered_record_is_no_record(cache: Cache) -> None:
    value = Measurement(shape="1x8", median=1.5, p95=2.0, runs=30)
    cache.write_record("measure", "k", value)
    place = cache.entry("measure", "k")
    assert place is not None
    original = (place / "record.json").read_bytes()
    for index in range(len(original)):
        (place / "record.json").write_bytes(original[:index] + bytes([original[index] ^ 1]) + original[index + 1 :])
        assert cache.read_record("measure", "k", Measurement) in (None, value)
        (place / "record.json").write_bytes(original[:index])
        assert cache.read_record("measure", "k", Measurement) is None
