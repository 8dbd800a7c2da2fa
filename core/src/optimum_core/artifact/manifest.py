"""The manifest `optimum.json`: the description of an artifact, its verification, and the digests of its files.

The first key is `digest`: sha256 over the file's own raw bytes with the digest's 64 digits read as zeros. So any
changed byte of the file is detected before its content is interpreted, whatever the schema.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from optimum_core.artifact.names import MANIFEST, check_names
from optimum_core.artifact.serialization import from_plain, to_plain
from optimum_core.artifact.structure import Structure
from optimum_core.errors import ArtifactError
from optimum_core.types import Artifact, AxisRange, Fidelity, Hardware, Report, StateSpec, Step, TensorSpec
from optimum_core.types.quantization import Scheme

__all__ = ["LIVE", "MANIFEST", "SCHEMA_VERSION", "FileEntry", "Manifest", "ModelInfo", "PartInfo", "decode", "encode"]

#: The newest schema that this version reads; artifacts without parts are written in schema 1, for older versions too.
SCHEMA_VERSION = 2
_WITHOUT_PARTS = 1

#: The format for a model that stays eager: the artifact has no model files, and the model in memory runs.
LIVE = "live"

_HEAD = b'{\n  "digest": "sha256:'
_BLANK = b"0" * 64
_END = len(_HEAD) + len(_BLANK)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FETCH_AGAIN = "copy or download the artifact again, or save it anew from the model"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """The model from which the artifact was made.

    Attributes:
        name: the name under which the caller passed it.
        fingerprint: sha256 of weights and configuration.
        class_name: "BertForSequenceClassification", or "" for a plain module.
        module: the Python module of that class; informative, never imported on loading.
        structure: the containers around the outputs of a call; None in manifests that state `output_class`.
        output_class: "transformers.modeling_outputs.SequenceClassifierOutput", or "".
        returns_tuple: whether the configuration asks for a tuple in place of the output class.
        positional: the positional parameters of `forward`, in order; None: the order of `inputs`.
        defaults: parameters of `forward` that are no inputs, with defaults of plain values: what it was exported with.
        main_input: the main input for pipelines ("input_ids").
        can_generate: whether `generate` is supported.
        dtype: numpy's name of the eager weights' type.
        has_original: False: it was given as an exported file, and compared with a reading of that file alone.
        licence: what the header of its card states of that ("license", "license_name", "license_link").
        settings: values of its configuration as transformers reads it, which are used without transformers.
    """

    name: str
    fingerprint: str
    class_name: str = ""
    module: str = ""
    structure: Structure | None = None
    output_class: str = ""
    returns_tuple: bool = False
    positional: tuple[str, ...] | None = None
    defaults: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    main_input: str = ""
    can_generate: bool = False
    dtype: str = "float32"
    has_original: bool = True
    licence: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """The expected sha256 of a file's bytes, in lower-case hex, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PartInfo:
    """One graph of a generative model. It runs on the backend and device of the whole.

    Attributes:
        format: the format of its files.
        precision: as in `Artifact.precision`.
        model_files: its files, the one to open first in front; none where the model stays eager.
        inputs, outputs, state: as in `Artifact`.
        steps: the steps that made the files, oldest first.
    """

    format: str
    precision: str
    model_files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: StateSpec | None = None
    steps: tuple[Step, ...] = ()

    @classmethod
    def of(cls, artifact: Artifact, prefix: str) -> PartInfo:
        """Return the description of an artifact whose files lie under `prefix`."""
        return cls(
            format=artifact.format,
            precision=artifact.precision,
            model_files=tuple(f"{prefix}{name}" for name in artifact.files),
            inputs=artifact.inputs,
            outputs=artifact.outputs,
            state=artifact.state,
            steps=artifact.steps,
        )

    def artifact(self, path: Path) -> Artifact:
        """Return the artifact for backends, with its files under `path`."""
        return _artifact(self, path, precision=self.precision, state=self.state)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """The content of `optimum.json` except its digest.

    Attributes:
        created_with: versions by distribution ("optimum-core": "0.1.0").
        precision: the precision of the arithmetic.
        quantized: the scheme by which it was quantized ("static-int8"); None: it was not.
        level: the optimization level of an eager model; for files, it is in the steps.
        streams: the number of concurrent calls that it is tuned for.
        prepared: the shapes that its session prepares for, as lengths of named axes.
        session_options: the options that the winning session was loaded with; JSON values.
        inputs: the inputs, in order.
        outputs: the outputs, in the order of the output class.
        axes: the accepted and the proved lengths, by named axis.
        ignored_inputs: names that are accepted and left out, because the original ignores them.
        steps: the steps that made the files, oldest first.
        verified: whether `fidelity` was measured on exactly these files.
        hardware: the machine it was tuned on.
        model_files: the artifact's files, the one to open first in front; all are in `files`. None where it has parts.
        parts: the graphs of a generative model, at least a "decoder"; `inputs` and `outputs` are those of its call.
        files: every file of the directory that belongs to it, except the manifest; names relative, with "/".
        meanings: for files beside the model, digests of what they may say if they are written again, by name.
        reads_alike: whether the package `tokenizers` alone reads texts as transformers does; None: not compared.
    """

    schema_version: int = _WITHOUT_PARTS
    created_with: Mapping[str, str] = field(default_factory=dict)
    task: str
    model: ModelInfo
    backend: str
    device: str
    format: str
    precision: str
    quantized: str | None = None
    level: str | None = None
    streams: int = 1
    prepared: tuple[Mapping[str, int], ...] = ()
    session_options: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    axes: Mapping[str, AxisRange] = field(default_factory=dict)
    ignored_inputs: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    verified: bool
    hardware: Hardware
    model_files: tuple[str, ...]
    parts: Mapping[str, PartInfo] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    meanings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reads_alike: bool | None = None
    fidelity: Fidelity | None = None
    report: Report | None = None

    def artifact(self, path: Path) -> Artifact:
        """Return the artifact for backends, with its files under `path`."""
        precision = Scheme.parse(self.quantized).weights if self.quantized else self.precision
        parts = {name: part.artifact(path) for name, part in self.parts.items()}
        return _artifact(self, path, precision=precision, parts=parts)

    @property
    def part_files(self) -> tuple[str, ...]:
        """The files of the model itself, in the order of its parts."""
        return (*self.model_files, *(name for part in self.parts.values() for name in part.model_files))


def _artifact(described: PartInfo | Manifest, path: Path, **further: Any) -> Artifact:
    """Return the artifact with its files under `path`; `further` are the fields in which manifest and part differ."""
    return Artifact(
        format=described.format,
        path=path,
        files=described.model_files,
        inputs=described.inputs,
        outputs=described.outputs,
        steps=described.steps,
        **further,
    )


def encode(manifest: Manifest) -> bytes:
    """Return the bytes of `optimum.json`: UTF-8, one "\\n" at the end of each line.

    Raises:
        OptionError: an option holds a value that JSON cannot represent.
        ArtifactError: the manifest names files that `decode` would reject.
    """
    who = f"manifest of model {manifest.model.name!r}"
    schema = SCHEMA_VERSION if manifest.parts else _WITHOUT_PARTS
    manifest = dataclasses.replace(manifest, schema_version=schema)
    _check(manifest, who)
    tree = {"digest": f"sha256:{_BLANK.decode()}", **to_plain(manifest, who)}
    if not manifest.parts:
        del tree["parts"]
    # A lone surrogate (a file name that is not UTF-8, quoted in some error) becomes its JSON escape.
    raw = (json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")
    return _HEAD + _digest(raw) + raw[_END:]


def decode(raw: bytes, who: str) -> Manifest:
    """Return the manifest in these bytes; check first the digest, then the schema's version, the rest and file names.

    Line endings that git converted are converted back.

    Args:
        who: the artifact, for errors.

    Raises:
        ArtifactError: it is altered, truncated, of another schema, or names files that are not allowed.
    """
    if raw.startswith(b"{\r\n"):  # a text in JSON holds no line ending, so that none is lost
        raw = raw.replace(b"\r\n", b"\n")
    _check_digest(raw, who)
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(who, f"{MANIFEST} is not JSON: {error}", _FETCH_AGAIN) from error
    _check_schema(tree.get("schema_version"), who)
    try:
        manifest = from_plain(tree, Manifest)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ArtifactError(who, f"{MANIFEST} does not fit schema {SCHEMA_VERSION}: {error}", _FETCH_AGAIN) from error
    _check(manifest, who)
    return manifest


def _digest(raw: bytes) -> bytes:
    return hashlib.sha256(_HEAD + _BLANK + raw[_END:]).hexdigest().encode()


def _check_digest(raw: bytes, who: str) -> None:
    if len(raw) < _END or not raw.startswith(_HEAD):
        why = f"{MANIFEST} does not begin as a manifest of optimum-core does: it is cut short, altered or another's"
        raise ArtifactError(who, why, _FETCH_AGAIN)
    stated, actual = raw[len(_HEAD) : _END], _digest(raw)
    if stated != actual:
        why = (
            f"{MANIFEST} was altered: its digest says sha256 {stated.decode('ascii', 'replace')}, "
            f"its {len(raw)} bytes give {actual.decode()}"
        )
        raise ArtifactError(who, why, f"{_FETCH_AGAIN}; it is not to be edited")


def _check_schema(version: object, who: str) -> None:
    if type(version) is int and _WITHOUT_PARTS <= version <= SCHEMA_VERSION:
        return
    if isinstance(version, int) and version > SCHEMA_VERSION:
        why = f"made by a newer optimum-core, schema {version}; this one reads up to {SCHEMA_VERSION}"
        raise ArtifactError(who, why, "pip install -U optimum-core")
    why = f"{MANIFEST} states the schema_version {version!r}; this optimum-core reads up to {SCHEMA_VERSION}"
    raise ArtifactError(who, why, _FETCH_AGAIN)


def _check(manifest: Manifest, who: str) -> None:
    check_names(manifest.files, who)
    if not manifest.part_files and manifest.format != LIVE:
        raise ArtifactError(who, "model_files is empty", "name the file to open first, then those it needs")
    for name in manifest.part_files:
        if name not in manifest.files:
            raise ArtifactError(who, f"the model file {name!r} is not among the artifact's files", _FETCH_AGAIN)
    for name, entry in manifest.files.items():
        if entry.size < 0 or not _SHA256.fullmatch(entry.sha256):
            raise ArtifactError(who, f"the entry of file {name!r} is no size and sha256: {entry}", _FETCH_AGAIN)
