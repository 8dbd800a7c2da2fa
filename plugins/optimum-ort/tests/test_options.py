from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from optimum_core import accelerate
from optimum_core.backend import read_options
from optimum_core.errors import OptionError
from optimum_core.types import Event
from optimum_ort.devices import check_options
from optimum_ort.options import OrtOptions


def _never(event: Event) -> None:
    raise AssertionError(f"{event.stage} has begun")


def test_defaults_and_values() -> None:
    assert read_options("ort", OrtOptions, {}) == OrtOptions()
    given = read_options("ort", OrtOptions, {"execution_mode": "parallel", "provider_options": {"a": 1}})
    assert (given.execution_mode, given.provider_options) == ("parallel", {"a": 1})


def test_unknown_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown option 'intra_op_thread'") as caught:
        read_options("ort", OrtOptions, {"intra_op_thread": 2})
    assert caught.value.remedy == "did you mean 'intra_op_threads'?"
    with pytest.raises(OptionError, match="use one of: intra_op_threads"):
        read_options("ort", OrtOptions, {"zzz": 2})


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("intra_op_threads", 0, "at least 1"),
        ("inter_op_threads", True, "at least 1"),
        ("intra_op_threads", "2", "at least 1"),
        ("execution_mode", "fast", "sequential, parallel"),
        ("graph_optimization_level", 99, "disable, basic, extended, all"),
        ("provider_options", "cuda", "mapping"),
        ("allow_spinning", 1, "True or False"),
    ],
)
def test_wrong_values_name_the_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(OptionError, match=f"option '{name}' cannot be") as caught:
        read_options("ort", OrtOptions, {name: value})
    assert allowed in caught.value.remedy


def test_options_that_the_provider_would_ignore_are_refused_before_the_export() -> None:
    model, inputs = torch.nn.Linear(2, 2), {"input": torch.ones(1, 2)}
    for target in ("ort", "ort:cpu"):
        with pytest.raises(OptionError, match="CPUExecutionProvider has no provider options, and would ignore 'FOO'"):
            accelerate(
                model, target=target, sample_inputs=inputs, options={"provider_options": {"FOO": 1}},
                progress=_never,
            )  # fmt: skip
    check_options({"provider_options": {"do_copy_in_default_stream": 1}}, devices=("cpu", "cuda"))


def test_every_option_is_in_the_readme() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert [item.name for item in fields(OrtOptions) if f"`{item.name}`" not in readme] == []
