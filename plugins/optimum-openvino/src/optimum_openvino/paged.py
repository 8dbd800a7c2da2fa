"""The file of a decoder in the form that openvino-genai reads.

openvino-genai finds inputs by the names of their operations, and has none for `logits_to_keep`: of each token of a call
it keeps the scores itself. So parameters get the names of their tensors, and the positions to keep become the constant
0, as each token is a row of its own there. Only the description of the graph is written anew; the weights stay in their
file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from optimum_core.errors import UnavailableError

#: The names under which openvino-genai looks for a model in a directory.
_XML, _BIN = "openvino_model.xml", "openvino_model.bin"
_KEPT = "logits_to_keep"
_SIZE = "8"  # bytes of an int64


def write_paged(file: Path, directory: Path) -> None:
    """Write the description of a decoder for openvino-genai, and a link to its weights.

    Raises:
        UnavailableError: the weights hold no 0 that the positions to keep can be.
    """
    weights = file.with_suffix(".bin").resolve()
    tree = ElementTree.parse(file)
    layers = tree.getroot().findall("layers/layer")
    for layer in layers:
        if layer.get("type") == "Parameter":
            name = _tensor_name(layer)
            layer.set("name", name)
            if name == _KEPT:
                _make_zero(layer, _offset_of_zero(layers, weights, file))
    tree.write(directory / _XML, encoding="utf-8", xml_declaration=True)
    try:
        (directory / _BIN).symlink_to(weights)
    except OSError:  # on Windows, links are a privilege
        shutil.copyfile(weights, directory / _BIN)


def _tensor_name(layer: Any) -> str:
    return str(layer.find("output/port").get("names", "")).split(",")[0]


def _make_zero(layer: Any, offset: str) -> None:
    """Make a constant of a parameter."""
    layer.set("type", "Const")
    data = layer.find("data")
    data.attrib.clear()
    data.attrib.update(element_type="i64", shape="1", offset=offset, size=_SIZE)
    layer.find("output/port/dim").text = "1"


def _offset_of_zero(layers: list[Any], weights: Path, file: Path) -> str:
    """Return the place of a constant that is 0; every selection of an axis has one."""
    wanted = {"element_type": "i64", "size": _SIZE}
    with weights.open("rb") as stream:
        for layer in layers:
            data = layer.find("data")
            if layer.get("type") != "Const" or any(data.get(name) != value for name, value in wanted.items()):
                continue
            stream.seek(int(data.get("offset")))
            if not any(stream.read(int(_SIZE))):
                return str(data.get("offset"))
    raise UnavailableError(
        f"continuous batching of {file}", "its graph has another form than ours", "export the model again"
    )
