"""Every layer that may be excluded is found in the graph of every route, by its name in the module."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from optimum_core.models.eager.sensitivity import layers_of
from optimum_core.types import Artifact
from optimum_openvino.devices import ROUTES
from optimum_openvino.layers import kept_operations


# Both routes through `torch.export` name the layers of GPT-2 by the same means: one is enough.
@pytest.mark.parametrize(
    ("kind", "route"),
    [*itertools.product(["bert features", "vit", "resnet"], ROUTES), ("gpt2", "module"), ("gpt2", "exported")],
)
def test_every_layer_is_found_by_its_name(
    kind: str, route: str, tiny: Callable[[str], Any], exported_by: Callable[[str, str], Artifact]
) -> None:
    subject = tiny(kind)
    model = openvino.Core().read_model(exported_by(kind, route).main_file)
    names = list(layers_of(subject.module))
    assert names
    for name in names:
        found = kept_operations(model, [name], "the test")
        assert all(f".{name}/" in operation for operation in found), found


@pytest.mark.parametrize("route", ROUTES)
def test_a_convolution_is_itself_though_a_batch_norm_is_part_of_it(
    route: str, tiny: Callable[[str], Any], exported_by: Callable[[str, str], Artifact]
) -> None:
    subject = tiny("resnet")
    model = openvino.Core().read_model(exported_by("resnet", route).main_file)
    left = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Convolution"}
    for name, layer in layers_of(subject.module).items():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        (found,) = [operation for operation in kept_operations(model, [name], "the test") if operation in left]
        weights = left.pop(found).input_value(1).get_node().get_data()
        np.testing.assert_allclose(weights, np.asarray(layer.weight.detach()), rtol=1e-3, err_msg=name)
    assert not left
