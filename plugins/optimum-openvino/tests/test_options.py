from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.backend import read_options
from optimum_core.errors import OptionError
from optimum_core.types import Event
from optimum_openvino.devices import check_options
from optimum_openvino.options import OpenVinoOptions


def _never(event: Event) -> None:
    raise AssertionError(f"{event.stage} has begun")


def test_defaults_and_values() -> None:
    assert read_options("openvino", OpenVinoOptions, {}) == OpenVinoOptions()
    given = read_options("openvino", OpenVinoOptions, {"cache_dir": Path("somewhere"), "num_streams": 2})
    assert (given.cache_dir, given.num_streams) == (Path("somewhere"), 2)


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'num_stream'") as caught:
        read_options("openvino", OpenVinoOptions, {"num_stream": 2})
    assert caught.value.remedy == "did you mean 'num_streams'?"
    with pytest.raises(OptionError, match="use one of: performance_hint"):
        read_options("openvino", OpenVinoOptions, {"zzz": 2})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_streams", 0, "at least 1"),
        ("num_streams", True, "at least 1"),
        ("inference_num_threads", "2", "at least 1"),
        ("performance_hint", "fast", "latency, throughput"),
        ("cache_dir", "", "a path"),
        ("enable_cpu_pinning", 1, "True or False, or None"),
        ("properties", None, "a mapping"),
        ("properties", {1: 2}, "a mapping"),
    ],
)
def test_wrong_values_name_the_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' cannot be") as caught:
        read_options("openvino", OpenVinoOptions, {name: value})
    assert allowed in caught.value.remedy


def test_every_option_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [item.name for item in fields(OpenVinoOptions) if f"`{item.name}`" not in readme] == []


@pytest.mark.parametrize(
    ("properties", "problem", "remedy"),
    [
        ({"FOO": 1}, "Unsupported property FOO", "use one of: "),
        ({"num_streams": 1}, "Unsupported property num_streams", "did you mean 'NUM_STREAMS'?"),
        ({"PERF_COUNT": "maybe"}, "Wrong value maybe", "correct the value"),
        ({"PERF_COUNT": object()}, "on cpu: ", "correct the value"),
    ],
    ids=["unknown", "nearly", "no value", "no text"],
)
def test_what_the_runtime_refuses_is_refused_before_the_export(
    properties: dict[str, object], problem: str, remedy: str
) -> None:
    model = torch.nn.Linear(2, 2)
    with pytest.raises(OptionError, match=problem) as caught:
        accelerate(
            model, target="openvino", sample_inputs={"input": torch.ones(1, 2)}, options={"properties": properties},
            progress=_never,
        )  # fmt: skip
    assert caught.value.remedy.startswith(remedy)


def test_properties_that_a_device_takes_pass(tmp_path: Path) -> None:
    check_options({"properties": {"KV_CACHE_PRECISION": "f16", "CACHE_DIR": str(tmp_path / "never")}})
    assert not (tmp_path / "never").exists()
