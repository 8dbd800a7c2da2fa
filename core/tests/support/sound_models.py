"""Tests of a model of sound with text on a backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from optimum_core import load
from optimum_core.testing.pictures import accelerated_pictures, picture_model, picture_rows


class SoundTests:
    """Equal to eager, with its tower, in memory and from files.

    Attributes:
        backend: the target.
        kind: of `optimum_core.testing.pictures`.
    """

    backend: str
    kind: str

    @pytest.fixture(scope="class")
    @classmethod
    def fast(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        return accelerated_pictures(cls.kind, cls.backend, tmp_path_factory.mktemp("cache"), budget=1)

    def test_it_writes_what_eager_writes_in_memory_and_from_files(self, fast: Any, tmp_path: Path) -> None:
        asked = {**picture_rows(self.kind), "max_new_tokens": 24, "do_sample": False}
        wanted = picture_model(self.kind).generate(**asked).tolist()
        assert fast.generate(**asked).tolist() == wanted
        fast.save_pretrained(tmp_path / "out")
        with load(tmp_path / "out") as loaded:
            assert loaded.generate(**asked).tolist() == wanted

    def test_the_tower_is_a_part_or_the_report_says_why_not(self, fast: Any) -> None:
        (note,) = (note for note in fast.report.notes if note.startswith("part audio (model.audio_tower)"))
        assert ("audio" in fast.manifest.parts) == ("runs as" in note)
