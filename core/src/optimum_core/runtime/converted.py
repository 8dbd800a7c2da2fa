"""Opening of a model that another package converted for a backend's runtime: nothing is compared.

The backend says what the files hold; the configuration beside them tells the task. There is no reading of the files
apart from that backend's own, so the model says that it is unverified.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimum_core.artifact import Manifest, PartInfo
from optimum_core.artifact import load as load_manifest
from optimum_core.artifact.manifest import ModelInfo
from optimum_core.artifact.store import write
from optimum_core.artifact.structure import from_names
from optimum_core.backend import overflows
from optimum_core.cache import Cache, content_key
from optimum_core.errors import OptionError, SessionError, SourceError, UnavailableError
from optimum_core.hardware import detect
from optimum_core.models.sources.agreement import check_generator, check_outputs, read_description
from optimum_core.models.sources.companions import licence_of
from optimum_core.models.sources.converted import ConvertedSource
from optimum_core.models.sources.sentences.stored import without_pickles
from optimum_core.packages import present, versions
from optimum_core.plan import FLOATS, FULL_PRECISION, parse_target
from optimum_core.plugins import PluginManager, manager
from optimum_core.types import Artifact, AxisRange, CandidateResult, Report, Support
from optimum_core.types.quantization import Scheme
from optimum_core.types.state import DECODER

#: Raised when the same files become another artifact.
_MADE = 6
_HIDDEN_STATE, _LOGITS, _FEATURES = "last_hidden_state", "logits", "feature-extraction"
#: Keys of configurations for the number of positions.
_POSITIONS = ("max_position_embeddings", "n_positions")


def as_artifact(source: ConvertedSource, *, target: str | None = None, cache: Cache | None = None) -> Path:
    """Return the directory of an artifact made of a converted model.

    Raises:
        ArtifactError: it is damaged, or of a kind that its backend does not take.
        SourceError: `config.json` beside it is no JSON, or contradicts its outputs.
        UnavailableError: the target does not load the format.
    """
    plugins, cache = manager(), cache or Cache()

    def make(place: Path) -> None:
        artifact = source.adopt(place)
        for name, path in source.companions().items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / name)
        without_pickles(source.directory, place)
        write(place, manifest_of(source, artifact, plugins, target))

    key = content_key(
        {
            "made": _MADE,
            "files": source.digests,
            "torch": present("torch"),  # which reads pickled weights of modules
            "licence": licence_of(source.directory),
            "name": source.name,
            "target": target or "",
            "versions": _versions(source, plugins),
        }
    )
    place = cache.build("converted", key, make, describe=f"{source.name}, converted already")
    cache.hold(place)
    return place


@contextmanager
def refusals_name_the_source(name: str) -> Iterator[None]:
    """Raise `SourceError` for a model that its runtime refuses: the file in the cache says nothing to a user."""
    try:
        yield
    except SessionError as error:
        remedy = "give a file of standard ONNX or of an installed backend, or the model that it was made from"
        raise SourceError(f"model {name!r}", f"no installed backend opens it: {error.why}", remedy) from error


def manifest_of(source: ConvertedSource, artifact: Artifact, plugins: PluginManager, target: str | None) -> Manifest:
    """Return the manifest of a converted model.

    Raises:
        SourceError: `config.json` is no JSON, or contradicts the outputs.
        UnavailableError: the target does not load the format.
    """
    backend, device = _reader(source, artifact, plugins, target)
    config, precision = read_description(source.directory), artifact.precision
    class_name, task = _what_it_is(config, artifact)
    check_outputs(config, task, artifact.outputs, f"model {source.name!r}")
    check_generator(config, artifact, f"model {source.name!r}")
    quantized = None if precision in FLOATS else precision
    return Manifest(
        created_with=_versions(source, plugins),
        task=task,
        model=ModelInfo(
            name=source.name,
            fingerprint=content_key(source.digests),
            class_name=class_name,
            structure=from_names("", tuple(spec.name for spec in artifact.outputs)),
            main_input=artifact.inputs[0].name,
            can_generate=DECODER in artifact.parts,
            has_original=False,
            licence=licence_of(source.directory),
        ),
        backend=backend,
        device=device,
        format=artifact.format,
        precision=precision if precision in FLOATS else FULL_PRECISION,
        quantized=quantized,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        axes=_longest(config, artifact),
        steps=artifact.steps,
        verified=False,
        hardware=detect(),
        report=_report(source, artifact, backend, device, task, overflow_notes(quantized)),
        model_files=artifact.files,
        parts={name: PartInfo.of(part, _folder(part, artifact)) for name, part in artifact.parts.items()},
    )


def _report(
    source: ConvertedSource, artifact: Artifact, backend: str, device: str, task: str, notes: tuple[str, ...]
) -> Report:
    """Return the report on a model of which there was one form to choose from."""
    chosen = CandidateResult(
        name=f"{artifact.format} → {backend} {device}", backend=backend, device=device, precision=artifact.precision,
        outcome="chosen", reason="opened as it is; nothing was compared or measured",
    )  # fmt: skip
    given = f"it was given converted already ({source.form}): it is unverified against an original, NOT compared"
    return Report(model=source.name, task=task, workload=(), candidates=(chosen,), notes=(given, *notes))


def overflow_notes(quantized: str | None) -> tuple[str, ...]:
    """Return the remark on a file of 8-bit products, quantized by another package, that this processor adds in 16."""
    scheme = Scheme.parse(quantized) if quantized is not None else None
    is_8_bit = scheme is not None and not scheme.is_weight_only and scheme.weights in ("int8", "uint8")
    if not is_8_bit or not overflows(detect().cpu):
        return ()
    return (
        f"it is {quantized}, and this processor, without VNNI or AMX, adds 8-bit products in 16 bits, which overflow "
        "where weights use more than 7: such products are computed in more bits here, which takes longer; give the "
        "original with quantize='int8' for weights that suit this processor",
    )


def _versions(source: ConvertedSource, plugins: PluginManager) -> dict[str, str]:
    return {**versions(("optimum-core",)), **plugins.support(source.backend, detect()).versions}


def _folder(part: Artifact, whole: Artifact) -> str:
    """Return the folder of a part within the artifact, with its slash; empty: it lies in the artifact's own."""
    below = part.path.relative_to(whole.path).as_posix()
    return "" if below == "." else f"{below}/"


def _reader(source: ConvertedSource, artifact: Artifact, plugins: PluginManager, target: str | None) -> tuple[str, str]:
    """Return the backend and the device that load the format: those of the target, or of the backend that knows it."""
    wanted = parse_target(target or "auto")
    supports = plugins.supports(detect())
    for name in sorted(
        supports, key=lambda name: (name != source.backend, not _writes(supports[name], artifact), name)
    ):
        for offer in supports[name].offers:
            loads = offer.stateful if artifact.parts else offer.loads
            if artifact.format in loads and offer.proof == "device" and wanted.backend in (None, name):
                return name, wanted.device or offer.device
    raise UnavailableError(
        f"model {source.name!r}",
        f"it is of the format {artifact.format!r}, which backend {wanted.backend or source.backend!r} does not load",
        f"name target={source.backend!r}, or give the checkpoint that it was made from",
    )


def _writes(support: Support, artifact: Artifact) -> bool:
    """Whether a backend optimizes within the format, so that it knows the operators of graphs that were optimized."""
    transforms = (item for offer in support.offers for item in offer.optimizes)
    return any(item.takes == item.gives == artifact.format for item in transforms)


def _longest(config: Mapping[str, Any], artifact: Artifact) -> Mapping[str, AxisRange]:
    """Return the length of texts that the configuration allows: a runtime may read beyond the table of positions."""
    named = {axis for spec in artifact.inputs for axis in spec.dynamic_axes.values()}
    stated = ((key, config.get(key)) for key in _POSITIONS)
    found = next(((key, length) for key, length in stated if isinstance(length, int) and length > 0), None)
    if found is None or "sequence" not in named:
        return {}
    return {"sequence": AxisRange(greatest=found[1], why=f"config.json says {found[0]}={found[1]}")}


def _what_it_is(config: Mapping[str, Any], artifact: Artifact) -> tuple[str, str]:
    """Return the class that the configuration names, and its task, where transformers is installed.

    A graph that gives hidden states is of no class with a head, whatever the checkpoint was that it was made from.
    """
    names = {spec.name for spec in artifact.outputs}
    if _HIDDEN_STATE in names and _LOGITS not in names:
        return "", _FEATURES
    class_name = str((config.get("architectures") or [""])[0])
    from optimum_core.models.tasks import CUSTOM
    from optimum_core.models.tasks import detect as detect_task

    if not present("transformers"):
        return class_name, CUSTOM
    return class_name, detect_task(class_name)


def require_task(place: Path, task: str, source: ConvertedSource) -> None:
    """Refuse a task that a converted model, as an artifact at `place`, is not for.

    Raises:
        OptionError: it is for another, or nothing tells for which.
    """
    from optimum_core.models.tasks import CUSTOM, fits

    manifest = load_manifest(place, verify_files=False)
    if fits(task, manifest.task, manifest.model.class_name):
        return
    if manifest.task == CUSTOM:
        why = f"nothing tells that {source.name!r} ({source.form}) is for it: its config.json names no class"
        raise OptionError(f"task {task!r}", why, "leave task out, or put the config.json of its checkpoint beside it")
    kind = f"a {manifest.model.class_name}, " if manifest.model.class_name else ""
    why = f"{source.name!r} ({source.form}) is {kind}for {manifest.task}"
    raise OptionError(f"task {task!r}", why, "leave task out, use the class for its task, or give another model")
