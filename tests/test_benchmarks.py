"""Benchmarks read what an earlier run made."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks import generating


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    for name, problem in (("made", ""), ("failed", "a full disk")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "size": 3, "problem": problem}), "utf-8")
    made = generating._read(tmp_path, "made")
    assert made is not None and made.size == 3
    assert generating._read(tmp_path, "failed") is None and generating._read(tmp_path, "never run") is None
