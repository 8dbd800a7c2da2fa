"""Every layer that may be excluded is found in the graph of every route, by its name in the module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import pytest

from optimum_core.models.sensitivity import layers_of
from optimum_openvino import plugin
from optimum_openvino.devices import ROUTES
from optimum_openvino.layers import kept_operations


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("kind", ["bert", "vit", "gpt2"])
def test_every_layer_is_found_by_its_name(kind: str, route: str, tiny: Callable[[str], Any], tmp_path: Path) -> None:
    subject = tiny(kind)
    artifact = plugin.export(subject.request(tmp_path, route=route))
    assert artifact is not None
    model = openvino.Core().read_model(artifact.main_file)
    names = list(layers_of(subject.source.module()))
    assert names
    for name in names:
        found = kept_operations(model, [name], "the test")
        assert all(f".{name}/" in operation for operation in found), found
