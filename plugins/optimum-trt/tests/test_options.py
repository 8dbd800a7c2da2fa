from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from optimum_core.backend import read_options
from optimum_core.errors import OptionError
from optimum_trt.options import TrtOptions
from optimum_trt.profiles import _OTHERS, _USUAL

_GOOD: dict[str, Any] = {
    "module": "tensorrt_rtx",
    "ranges": {"sequence": [0, 128, 512]},
    "tf32": True,
    "optimization_level": 5,
    "workspace": 1 << 30,
    "timing_cache": "times.bin",
    "weight_streaming": True,
    "refit": True,
    "contexts": 2,
    "cuda_graphs": False,
    "most_shapes": 3,
    "runtime_cache": "kernels.bin",
    "weight_budget": 0,
    "refit_from": Path("model.onnx"),
}
_BAD: dict[str, tuple[Any, ...]] = {
    "module": ("tensorflow", 1),
    "ranges": (3, {"sequence": (1, 2)}, {"sequence": (3, 2, 4)}, {"sequence": (-1, 2, 4)}, {"sequence": (0, 0, 0)}),
    "tf32": (1, "yes"),
    "optimization_level": (6, -1, True, 1.5),
    "workspace": (0,),
    "timing_cache": (4,),
    "weight_streaming": ("on",),
    "refit": (None,),
    "contexts": (0, "two"),
    "cuda_graphs": (0,),
    "most_shapes": (0, None),
    "runtime_cache": (b"bytes",),
    "weight_budget": (-1,),
    "refit_from": (1,),
}


def test_every_option_is_read() -> None:
    made = read_options("trt", TrtOptions, _GOOD)
    assert set(_GOOD) == {item.name for item in fields(TrtOptions)}
    assert made.ranges == {"sequence": (0, 128, 512)}
    assert (made.timing_cache, made.refit_from) == (Path("times.bin"), Path("model.onnx"))
    assert all(getattr(made, name) == value for name, value in _GOOD.items() if isinstance(value, int))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in _BAD.items() for value in values])
def test_wrong_values_are_refused(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"option '{name}") as caught:
        read_options("trt", TrtOptions, {name: value})
    assert caught.value.remedy.startswith("give ")


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'cuda_graph'") as caught:
        read_options("trt", TrtOptions, {"cuda_graph": True})
    assert caught.value.remedy == "did you mean 'cuda_graphs'?"


def test_the_page_lists_every_option() -> None:
    page = Path(__file__).parents[3] / "docs" / "backends" / "trt.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the package")
    text = page.read_text(encoding="utf-8").partition("\n## Options\n")[2].partition("\n## ")[0]
    stated = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    defaults = {item.name: getattr(TrtOptions(), item.name) for item in fields(TrtOptions)}
    assert list(stated) == list(defaults)
    plain = {name: value for name, value in defaults.items() if value is not None and value != {}}
    assert {name: stated[name] for name in plain} == {name: f"`{value}`" for name, value in plain.items()}


def test_the_page_lists_the_usual_ranges() -> None:
    page = Path(__file__).parents[3] / "docs" / "backends" / "trt.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the package")
    text = page.read_text(encoding="utf-8").partition("\n## Shapes\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\w[\w, ]*?)(?: \(a cache\))? \| ([\d, ]+) \|$", text, re.MULTILINE))
    stated = {word: rows[row] for row in rows for word in row.split(", ")}
    usual = {**dict(_USUAL), "others": _OTHERS}
    assert stated == {word: ", ".join(map(str, lengths)) for word, lengths in usual.items()}
