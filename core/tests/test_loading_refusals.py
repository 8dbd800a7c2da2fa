"""Refusals of `load` and `optimum-core generate`: they name the files, and what takes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from optimum_core import load
from optimum_core.cli.app import app
from optimum_core.errors import ArtifactError, InputError, SourceError

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"a" * 64)


def test_a_checkpoint_is_for_accelerate(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    tiny("bert").save_pretrained(tmp_path / "m")
    with pytest.raises(ArtifactError, match=r"it holds model\.safetensors.*\n.*optimum_core\.accelerate\("):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    ("content", "told"), [(_POINTER, "git-lfs"), (b"", "is empty"), (b"\x08\x0a\x12", "does not open as ONNX")]
)
def test_an_onnx_file_that_nothing_opens_is_not_said_to_be_for_accelerate(
    content: bytes, told: str, tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    for place in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(SourceError, match=told) as refused:
            load(place)
        assert "accelerate(" not in str(refused.value)


@pytest.mark.parametrize("given", ["", " \n"])
def test_an_empty_prompt_is_refused_before_anything_is_opened(given: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(tmp_path / "none"), "-"], input=given)
    assert isinstance(result.exception, InputError) and "it is empty" in str(result.exception)
