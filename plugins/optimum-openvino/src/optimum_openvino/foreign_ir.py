"""IRs that another package wrote, such as optimum-intel: found by their names here, read in `adoption`.

Light to import: the probe names this form.
"""

from __future__ import annotations

from pathlib import Path

from optimum_core.types import Artifact, ForeignFormat

_NAME = "openvino_model.xml"
#: Graphs of the parts of one model, and of its tokenizer.
_PARTS, _TOKENIZERS = "openvino_*_model.xml", ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
_PAIR = ("openvino_decoder_model.xml", "openvino_encoder_model.xml")
_BEGINNING = b"<net"
#: Where sentence-transformers puts its graphs.
_FOLDER = "openvino"


def find(path: Path) -> tuple[Path, ...]:
    """Return the graphs of an IR, each with its weights, at a file or in a directory or a folder of it."""
    if path.is_file():
        return _with_weights(path) if path.suffix == ".xml" and _is_graph(path) else ()
    for place in (path, *sorted(item for item in path.glob("*/") if (item / _NAME).is_file())):
        if (place / _NAME).is_file():
            return _with_weights(place / _NAME)
        if parts := sorted(place.glob(_PARTS)):
            return tuple(file for part in _paired(parts) for file in _with_weights(part))
    named = sorted((*path.glob("*.xml"), *(path / _FOLDER).glob("*.xml")))  # quantized, such as ..._qint8_quantized.xml
    others = [file for file in named if file.name not in _TOKENIZERS and _is_graph(file)]
    return _with_weights(others[0]) if len(others) == 1 else ()


def _paired(parts: list[Path]) -> list[Path]:
    """Return the parts, and behind one of a pair the other, whose absence core tells."""
    if len(parts) == 1 and parts[0].name in _PAIR:
        return [*parts, *(parts[0].with_name(name) for name in _PAIR if name != parts[0].name)]
    return parts


def _with_weights(graph: Path) -> tuple[Path, ...]:
    return graph, graph.with_suffix(".bin")


def _is_graph(file: Path) -> bool:
    with file.open("rb") as opened:
        return _BEGINNING in opened.read(256)


def adopt(files: tuple[Path, ...], output: Path) -> Artifact:
    """Write the IR as an artifact; see `optimum_openvino.adoption`."""
    from optimum_openvino.adoption import adopt as adopt_graph

    return adopt_graph(files, output)


def release(artifact: Artifact, output: Path) -> None:
    """Write an artifact of ours as optimum-intel reads it; see `optimum_openvino.release`."""
    from optimum_openvino.release import release as release_graph

    release_graph(artifact, output)


FOREIGN_IR = ForeignFormat(
    name="OpenVINO IR", format="openvino-ir", layout="optimum", find=find, adopt=adopt, release=release
)
