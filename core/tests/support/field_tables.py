"""Tables of the fields of the contract's dataclasses, from their docstrings: run it to write docs/fields.md anew."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

from optimum_core.types import (
    Cpu,
    ForeignFormat,
    Gpu,
    Hardware,
    Limitation,
    Npu,
    Offer,
    QuantizeConfig,
    Support,
    Transform,
)

PAGE = Path(__file__).parents[3] / "docs" / "fields.md"
KINDS = (Hardware, Cpu, Gpu, Npu, Support, Offer, Transform, ForeignFormat, Limitation, QuantizeConfig)
_HEAD = """# Fields

The dataclasses that a probe reads and returns, and the configuration of a quantization: every field with its type, its
value unless stated, and its meaning with its unit. Core checks the types of a probe's whole answer, down to the items
of each tuple, and sets a plugin aside whose answer has another. A tuple of one needs its comma: `loads=("onnx",)`.
"""


def page() -> str:
    """Return the text of the page."""
    return "\n".join([_HEAD, *(table(kind) for kind in KINDS)])


def table(kind: type) -> str:
    """Return the section of a dataclass."""
    meanings = _meanings(kind)
    rows = [
        f"| `{item.name}` | `{str(item.type).replace('|', chr(92) + '|')}` | {_default(item)} | {meanings[item.name]} |"
        for item in dataclasses.fields(kind)
    ]
    summary = (inspect.getdoc(kind) or "").partition("\n\n")[0]
    return "\n".join(
        [
            f"## {kind.__name__}",
            "",
            summary,
            "",
            "| field | type | unless stated | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _default(item: dataclasses.Field[object]) -> str:
    if item.default is not dataclasses.MISSING:
        return f"`{item.default!r}`"
    return "" if item.default_factory is dataclasses.MISSING else "empty"


def _meanings(kind: type) -> dict[str, str]:
    """Return the meaning of each field: of one named in another's entry ("…, and `remedy`, …"), that entry's."""
    text = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2].partition("\n\nRaises:")[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", text):
        names, _, meaning = " ".join(entry.split()).partition(": ")
        found |= dict.fromkeys((*names.split(", "), *re.findall(r"and `(\w+)`,", meaning)), meaning.replace("|", "\\|"))
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
