"""Artifacts on disk: saved as a whole or not at all, and loaded only when every byte is what it was."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from manifests import small_manifest
from optimum_core.artifact import MANIFEST, FileEntry, Manifest, load, save, write
from optimum_core.errors import ArtifactError, OptimumError

CONTENT = {"model.onnx": b"graph " * 20, "parts/weights.bin": bytes(range(256)), "empty.txt": b""}


def unfilled(**changes: Any) -> Manifest:
    return small_manifest(**{"model_files": ("model.onnx", "parts/weights.bin"), **changes})


def put(directory: Path, content: Mapping[str, bytes]) -> dict[str, Path]:
    for name, data in content.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return {name: directory / name for name in content}


def tree(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    return put(tmp_path / "sources", CONTENT)


@pytest.fixture
def saved(tmp_path: Path, sources: dict[str, Path]) -> Path:
    save(unfilled(), sources, tmp_path / "out")
    return tmp_path / "out"


def only(parent: Path, *names: str) -> bool:
    return sorted(p.name for p in parent.iterdir()) == sorted(names)


def test_saved_is_what_loads(tmp_path: Path, sources: dict[str, Path]) -> None:
    complete = save(unfilled(), sources, tmp_path / "new" / "out")
    assert load(tmp_path / "new" / "out") == complete
    assert {name: entry.size for name, entry in complete.files.items()} == {k: len(v) for k, v in CONTENT.items()}
    assert only(tmp_path / "new", "out")
    artifact = complete.artifact(tmp_path / "new" / "out")
    assert artifact.main_file.read_bytes() == CONTENT["model.onnx"]
    assert artifact.inputs == complete.inputs


def test_a_saved_file_is_a_copy_of_its_own(saved: Path, sources: dict[str, Path]) -> None:
    with (saved / "model.onnx").open("r+b") as stream:
        stream.write(b"XXXX")
    assert sources["model.onnx"].read_bytes() == CONTENT["model.onnx"]


def test_write_completes_a_directory_in_place(tmp_path: Path) -> None:
    put(tmp_path / "built", CONTENT)
    complete = write(tmp_path / "built", unfilled())
    assert load(tmp_path / "built") == complete
    assert set(complete.files) == set(CONTENT)


def test_every_flipped_byte_of_every_file_is_seen(saved: Path) -> None:
    for name in (MANIFEST, "model.onnx", "parts/weights.bin"):
        original = (saved / name).read_bytes()
        for index in range(len(original)):
            altered = bytearray(original)
            altered[index] ^= 0x01
            (saved / name).write_bytes(altered)
            with pytest.raises(ArtifactError) as caught:
                load(saved)
            assert name in caught.value.why
            assert "sha256" in caught.value.why or name == MANIFEST
        (saved / name).write_bytes(original)
    load(saved)


def test_the_bytes_of_large_files_alone_are_left_unread(tmp_path: Path) -> None:
    large = bytes(4_000_001)
    put(tmp_path / "built", {**CONTENT, "model.onnx": large})
    write(tmp_path / "built", unfilled())
    (tmp_path / "built" / "model.onnx").write_bytes(b"X" + large[1:])
    load(tmp_path / "built", verify_files=False)
    with pytest.raises(ArtifactError, match="sha256"):
        load(tmp_path / "built")
    weights = tmp_path / "built" / "parts" / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"X")
    with pytest.raises(ArtifactError, match=r"weights\.bin.*sha256"):
        load(tmp_path / "built", verify_files=False)


@pytest.mark.parametrize("name", [MANIFEST, "model.onnx", "parts/weights.bin", "empty.txt"])
@pytest.mark.parametrize("verify_files", [True, False])
def test_a_longer_or_shorter_file_is_seen(saved: Path, name: str, verify_files: bool) -> None:
    original = (saved / name).read_bytes()
    for altered in {original + b"\0", original[:-1], original[:1], b""} - {original}:
        (saved / name).write_bytes(altered)
        with pytest.raises(ArtifactError, match=r"size|altered|begin") as caught:
            load(saved, verify_files=verify_files)
        assert name in caught.value.why


@pytest.mark.parametrize("verify_files", [True, False])
def test_a_pointer_in_place_of_a_file_is_named(saved: Path, verify_files: bool) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438\n"
    (saved / "model.onnx").write_text(pointer, encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"'model\.onnx' is a pointer of git-lfs.*\n.*git lfs pull"):
        load(saved, verify_files=verify_files)


@pytest.mark.parametrize("name", ["model.onnx", "parts/weights.bin", "empty.txt"])
def test_a_missing_file_or_a_directory_in_its_place_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}' is missing"):
        load(saved)
    (saved / name).mkdir()
    with pytest.raises(ArtifactError, match=f"{name}' is not a regular file"):
        load(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["model.onnx", MANIFEST])
def test_a_named_pipe_is_refused_and_not_waited_on(saved: Path, name: str) -> None:
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(ArtifactError, match="not a regular file"):
        load(saved)


def link(at: Path, to: Path) -> None:
    try:
        at.symlink_to(to)
    except OSError:
        pytest.skip("this system makes no symbolic links")


@pytest.mark.parametrize("name", ["model.onnx", MANIFEST])
def test_a_link_may_lead_only_where_it_was_allowed(tmp_path: Path, saved: Path, name: str) -> None:
    blobs = tmp_path / "repo" / "blobs"
    snapshot = tmp_path / "repo" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.parent.mkdir()
    saved.rename(snapshot)
    (snapshot / name).rename(blobs / "abc")
    link(snapshot / name, Path("../../blobs/abc"))
    with pytest.raises(ArtifactError, match="leads out of the directory"):
        load(snapshot)
    assert load(snapshot, allow_links_under=tmp_path / "repo").task == "classification"
    with pytest.raises(ArtifactError, match="leads out of the directory"):
        load(snapshot, allow_links_under=snapshot.parent)


def test_a_linked_folder_cannot_smuggle_files_in(tmp_path: Path, saved: Path) -> None:
    (saved / "parts").rename(tmp_path / "elsewhere")
    link(saved / "parts", tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"parts/weights\.bin' is a link that leads out"):
        load(saved)


def test_a_link_in_a_circle_is_an_error(saved: Path) -> None:
    (saved / "model.onnx").unlink()
    link(saved / "model.onnx", Path("model.onnx"))
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        load(saved)


def test_files_that_are_not_listed_are_not_opened(saved: Path) -> None:
    put(saved, {"README.md": b"edited", ".gitattributes": b"*"})
    if hasattr(os, "mkfifo"):
        os.mkfifo(saved / "pipe")
    load(saved)


def test_what_is_no_artifact_says_so(tmp_path: Path) -> None:
    put(tmp_path, {"file": b"", "model/config.json": b"{}", "other/optimum.json": b"{}"})
    for name, message in {"nowhere": "no such", "file": "a file", "model": "no optimum.json", "other": "begin"}.items():
        with pytest.raises(ArtifactError, match=message):
            load(tmp_path / name)


def test_an_empty_directory_is_taken(tmp_path: Path, sources: dict[str, Path]) -> None:
    (tmp_path / "out").mkdir()
    assert save(unfilled(), sources, tmp_path / "out") == load(tmp_path / "out")


def test_an_older_artifact_is_replaced_and_strangers_in_it_are_kept(saved: Path, sources: dict[str, Path]) -> None:
    put(saved, {"tokenizer/vocab.txt": b"a", "README.md": b"mine"})
    del sources["empty.txt"]
    save(unfilled(task="newer"), sources, saved)
    assert load(saved).task == "newer"
    assert set(tree(saved)) == {MANIFEST, "model.onnx", "parts/weights.bin", "tokenizer/vocab.txt", "README.md"}
    assert only(saved.parent, "sources", "out")


def test_an_artifact_can_be_saved_over_itself(saved: Path) -> None:
    manifest = load(saved)
    assert save(manifest, {name: saved / name for name in manifest.files}, saved) == manifest
    assert load(saved) == manifest


@pytest.mark.parametrize(
    "present", [{"notes.txt": b"n"}, {"optimum.json": b"{}"}, {"optimum.json": b"{}", "model.onnx": b"theirs"}]
)
def test_other_peoples_directories_are_left_alone(
    tmp_path: Path, sources: dict[str, Path], present: dict[str, bytes]
) -> None:
    put(tmp_path / "out", present)
    with pytest.raises(ArtifactError, match="not empty") as caught:
        save(unfilled(), sources, tmp_path / "out")
    assert "overwrite=True" in caught.value.remedy
    assert tree(tmp_path / "out") == present
    save(unfilled(), sources, tmp_path / "out", overwrite=True)
    assert load(tmp_path / "out").task == "classification"
    assert set(tree(tmp_path / "out")) == {*CONTENT, MANIFEST, *present}


def test_a_stranger_of_our_name_in_an_older_artifact_is_not_overwritten_unasked(
    saved: Path, sources: dict[str, Path]
) -> None:
    put(saved, {"tokenizer.json": b"theirs"})
    put(saved.parent / "sources", {"tokenizer.json": b"ours"})
    sources["tokenizer.json"] = saved.parent / "sources" / "tokenizer.json"
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        save(unfilled(), sources, saved)
    assert (saved / "tokenizer.json").read_bytes() == b"theirs"
    save(unfilled(), sources, saved, overwrite=True)
    assert (saved / "tokenizer.json").read_bytes() == b"ours"


def test_a_file_in_the_place_is_an_error(tmp_path: Path, sources: dict[str, Path]) -> None:
    (tmp_path / "out").write_bytes(b"keep")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match="a file of this name"):
            save(unfilled(), sources, tmp_path / "out", overwrite=overwrite)
    with pytest.raises(ArtifactError, match="refused"):
        save(unfilled(), sources, tmp_path / "out" / "below")
    assert (tmp_path / "out").read_bytes() == b"keep"


def test_the_current_directory_is_refused(
    tmp_path: Path, sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="current directory"):
        save(unfilled(), sources, Path())


def test_names_that_leave_the_directory_are_refused_before_a_byte_is_copied(
    tmp_path: Path, sources: dict[str, Path]
) -> None:
    with pytest.raises(ArtifactError, match=r"'\.\.'"):
        save(unfilled(), {**sources, "../escaped": sources["model.onnx"]}, tmp_path / "out")
    assert only(tmp_path, "sources")


def test_a_source_that_changed_since_it_was_verified_is_not_saved(saved: Path, sources: dict[str, Path]) -> None:
    manifest = load(saved)
    sources["model.onnx"].write_bytes(b"rotten")
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        save(manifest, sources, saved)
    assert load(saved) == manifest


@pytest.mark.parametrize("fault", ["missing", "directory", "option"])
def test_a_save_that_fails_leaves_the_old_one_and_nothing_else(
    saved: Path, sources: dict[str, Path], fault: str
) -> None:
    before = tree(saved)
    manifest = unfilled(session_options={"x": object()} if fault == "option" else {})
    if fault != "option":
        sources["parts/weights.bin"].unlink()
    if fault == "directory":
        sources["parts/weights.bin"].mkdir()
    with pytest.raises(OptimumError):
        save(manifest, sources, saved)
    assert tree(saved) == before
    assert only(saved.parent, "sources", "out")


_LIMITED = """
import resource, sys
from pathlib import Path
from optimum_core.artifact import load, save
from optimum_core.errors import ArtifactError
out, big = map(Path, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    save(load(out), {"model.onnx": big}, out)
except ArtifactError as error:
    sys.exit(0 if "refused" in error.why and "free space" in error.remedy else repr(error))
sys.exit("nothing was raised")
"""


def test_a_disk_that_takes_no_more_leaves_the_old_artifact(saved: Path) -> None:
    pytest.importorskip("resource", reason="this system cannot limit the size of files")
    before = tree(saved)
    big = saved.parent / "sources" / "big"
    big.write_bytes(bytes(1 << 18))
    command = [sys.executable, "-c", _LIMITED, str(saved), str(big)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert tree(saved) == before
    assert only(saved.parent, "sources", "out")


_SAVING = """
import dataclasses, itertools, sys
from pathlib import Path
from optimum_core.artifact import load, save
out, sources = map(Path, sys.argv[1:])
manifest = load(out)
print("ready", flush=True)
for turn in itertools.count():
    manifest = dataclasses.replace(manifest, task=str(turn))
    save(manifest, {name: sources / name for name in manifest.files}, out)
"""


def test_killed_at_any_moment_an_artifact_stays_findable_and_whole(saved: Path) -> None:
    chance = random.Random(0)
    for _ in range(20):
        command = [sys.executable, "-c", _SAVING, str(saved), str(saved.parent / "sources")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0, 0.08))
            child.kill()
        if not saved.exists():
            with pytest.raises(ArtifactError, match="interrupted"):
                load(saved)
            former = list(saved.parent.glob(".out.*.old"))
            for old in former:
                load(old)
            max(former, key=lambda old: old.stat().st_mtime_ns).rename(saved)
        load(saved)


def test_an_interrupted_replacement_says_where_the_old_one_is(saved: Path) -> None:
    former = saved.with_name(".out.0123456789abcdef.old")
    saved.rename(former)
    with pytest.raises(ArtifactError, match="interrupted") as caught:
        load(saved)
    assert str(former) in caught.value.why


def test_an_entry_stated_by_hand_must_be_true(tmp_path: Path, sources: dict[str, Path]) -> None:
    wrong = unfilled(files={"model.onnx": FileEntry(sha256="0" * 64, size=120)})
    with pytest.raises(ArtifactError, match="was changed since it was verified"):
        save(wrong, sources, tmp_path / "out")
    assert only(tmp_path, "sources")
