"""The model card of a saved artifact: its README.md, with the header that the hub reads.

The artifact's manifest does not list it, so that a page may be edited and the artifact still loads. The last line of a
card holds the digest of the others: a page that was edited, or written by hand, is known by it and left alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import optimum_core.artifact as artifacts
from optimum_core.artifact import Manifest
from optimum_core.artifact.durable import write_file
from optimum_core.errors import ArtifactError
from optimum_core.hardware import describe
from optimum_core.types import Fidelity

CARD = "README.md"
#: Characters with which a text in YAML needs quotes.
_NOT_PLAIN = re.compile(r"[^\w.+/ :-]|: |:$|^[^\w]")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_LAST_LINE = re.compile(r"<!-- written by optimum-core: ([0-9a-f]{64}) -->\r?\n\Z")


def write_card(manifest: Manifest, directory: Path) -> None:
    """Write the card of a saved artifact, unless the directory has a README.md of another hand.

    Raises:
        OSError: it cannot be written.
    """
    place = directory / CARD
    if not place.exists() or is_unedited_card(place.read_text(encoding="utf-8", errors="replace")):
        write_file(place, card(manifest).encode())


def save_with_card(manifest: Manifest, sources: Mapping[str, Path], place: Path, *, overwrite: bool) -> None:
    """Save an artifact and its card. Raises as `artifact.save` does."""
    saved = artifacts.save(manifest, sources, place, overwrite=overwrite)
    try:
        write_card(saved, place)
    except OSError as error:
        why = f"the artifact is saved, but its {CARD} cannot be written: {error.strerror}"
        raise ArtifactError(f"artifact {place}", why, "check free space and permissions") from error


def is_unedited_card(text: str) -> bool:
    """Whether a page is a card as `write_card` wrote it."""
    found = _LAST_LINE.search(text)
    return found is not None and found[1] == _digest(text[: found.start()])


def card(manifest: Manifest) -> str:
    """Return the whole page."""
    parts = (_header, _about, _checked, _measured, _use)
    body = "".join(f"{line}\n" for part in parts for line in part(manifest))
    return f"{body}<!-- written by optimum-core: {_digest(body)} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest()


def _header(manifest: Manifest) -> Iterable[str]:
    tags = dict.fromkeys(filter(None, ("optimum-core", manifest.backend, manifest.format, manifest.quantized)))
    yield "---"
    yield "library_name: optimum-core"
    if manifest.task != "custom":
        yield f"pipeline_tag: {manifest.task}"
    for name, value in manifest.model.licence.items():
        if name == "license" and ", " in value:  # several
            yield from (f"{name}:", *(f"- {one}" for one in value.split(", ")))
            continue
        yield f"{name}: {json.dumps(value, ensure_ascii=False) if _NOT_PLAIN.search(value) else value}"
    if (base := _hub_name(manifest)) is not None:
        yield f"base_model: {base}"
        if manifest.quantized:
            yield "base_model_relation: quantized"
    yield from ("tags:", *(f"- {tag}" for tag in tags), "---", "")


def _hub_name(manifest: Manifest) -> str | None:
    """Return the model's name on the hub; None for one from a directory or from memory."""
    name = manifest.model.name
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _title(manifest: Manifest) -> str:
    return _hub_name(manifest) or re.split(r"[/\\]", manifest.model.name.rstrip("/\\"))[-1]


def _about(manifest: Manifest) -> Iterable[str]:
    base, kind = _hub_name(manifest), manifest.model.class_name
    original = f"[{base}](https://huggingface.co/{base})" if base else f"`{_title(manifest)}`"
    rounded = f", quantized by `{manifest.quantized}`" if manifest.quantized else ""
    made = ", ".join(f"{name} {version}" for name, version in sorted(manifest.created_with.items()))
    machine = dict(describe(manifest.hardware))
    yield f"# {_title(manifest)} for {manifest.backend}"
    yield ""
    yield (
        f"{original}{f' (`{kind}`)' if kind else ''} in the form that was fastest and agreed with it on one machine: "
        f"format `{manifest.format}`, run by the backend `{manifest.backend}` on `{manifest.device}`, computing in "
        f"{manifest.precision}{rounded}."
    )
    yield from ("", f"- Tuned on: {machine['CPU']}; {machine['System']}; GPUs: {machine['GPUs']}")
    yield f"- Made with: {made}"
    yield from (f"- {step.hook} by {step.backend} ({step.tool} {step.version})" for step in manifest.steps)
    yield ""


def _checked(manifest: Manifest) -> Iterable[str]:
    yield from ("## How it was checked", "")
    if not manifest.verified or manifest.fidelity is None:
        yield "It was not compared with the original model."
    elif not manifest.model.has_original:
        yield _compared(manifest.fidelity)
        yield "Here that is the file that was given, run by its reference evaluator: unverified against an original."
    else:
        yield _compared(manifest.fidelity)
    yield ""


def _compared(fidelity: Fidelity) -> str:
    number, outputs = len({item.case for item in fidelity.results}), {item.output for item in fidelity.results}
    cases = f"{number} case{'' if number == 1 else 's'}"
    worst = fidelity.worst
    error = f"; the worst relative error is {worst.relative_error:.1e}, on {worst.case}" if worst is not None else ""
    return (
        f"These very files were compared with the original model: {cases} (shapes, padding, lengths), "
        f"outputs {', '.join(f'`{name}`' for name in sorted(outputs))}, within {fidelity.tolerance:.1e} for "
        f"{fidelity.precision}{error}."
    )


def _measured(manifest: Manifest) -> Iterable[str]:
    if manifest.report is not None:
        report = replace(manifest.report, model=_title(manifest))  # not a path of this machine
        yield from ("## What was tried", "", report.to_markdown().rstrip("\n"), "")


def _use(manifest: Manifest) -> Iterable[str]:
    packages = " ".join(
        sorted({"optimum-core", *(name for name in manifest.created_with if name.startswith("optimum-"))})
    )
    inputs = ", ".join(f"{spec.name}=…" for spec in manifest.inputs)
    yield from ("## Use", "", "```", f"pip install {packages}", "```", "", "```python")
    yield from ("from optimum_core import load", "", 'model = load("owner/name")  # or the directory', "")
    yield from (f"outputs = model({inputs})", "```", "")
