"""Loading of models, configurations and processors: the one module that calls huggingface-hub and transformers' Auto
classes."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimum_core.errors import SourceError, UnavailableError, first_line
from optimum_core.models.silence import silence
from optimum_core.models.tasks import resolve_class
from optimum_core.packages import missing

#: Weights of modules behind a transformer lie in numbered folders, in the older form too.
_PLAIN_FILES = ["README.md", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.safetensors", "[0-9]_*/*.bin"]
#: Exported graphs with their external data, of repositories without weights for PyTorch.
_CONVERTED = ["*.onnx*", "onnx/model.onnx*"]


def download(repository: str, *, revision: str | None, with_code: bool) -> Path:
    """Fetch a model repository into the hub's own cache; of the weights only safetensors, if there are any.

    Raises:
        SourceError: there is no such repository, or it cannot be reached.
    """
    from huggingface_hub import snapshot_download

    patterns = [*_PLAIN_FILES, "*.py"] if with_code else _PLAIN_FILES
    with _hub_errors(f"model {repository!r}", "directory"):
        path = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        if not any(path.glob("*.safetensors")):
            path = Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns, "*.bin"]))
        if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
            path = Path(snapshot_download(repository, revision=revision, allow_patterns=[*patterns, *_CONVERTED]))
    return path


def download_part(repository: str, folder: str, name: str | None, *, revision: str | None) -> Path:
    """Fetch one exported model of a repository, with the configuration and tokenizer around it; return the directory.

    Args:
        folder: the folder that holds it; empty: the repository itself.
        name: the file in it, which brings the weights beside it; None: all of the folder.

    Raises:
        SourceError: as `download`.
    """
    from huggingface_hub import snapshot_download

    inside = f"{folder}/" if folder else ""
    wanted = [f"{inside}*"] if name is None else [f"{inside}{name}*", f"{inside}{Path(name).with_suffix('.bin')}"]
    described = ["*.json", "*.txt", "*.model", "*.jinja"]
    with _hub_errors(f"model {repository!r}", "directory"):
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*described, *wanted]))


def download_file(repository: str, name: str) -> Path:
    """Fetch one file of a model repository into the hub's own cache.

    Raises:
        SourceError: there is no such file, or it cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    with _hub_errors(f"file {name!r} of {repository!r}", "file"):
        return Path(hf_hub_download(repository, name))


@contextmanager
def _hub_errors(who: str, kind: str) -> Iterator[None]:
    """Turn the hub's errors about a directory or a file into a `SourceError`."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = f"it is no {kind} here, and the hub does not give it: {first_line(error)}"
        remedy = f"check the name and the connection (HF_HUB_OFFLINE forbids it), or give a {kind}"
        raise SourceError(who, why, remedy) from error


def require_export_packages(who: str) -> None:
    """Raise an error that says what to install if torch or transformers is missing."""
    if lacking := missing(("torch", "transformers")):
        raise UnavailableError(
            who,
            f"{' and '.join(lacking)} not installed",
            "pip install 'optimum-core[export]' (only load() needs neither)",
        )


def is_builtin(described: Mapping[str, Any]) -> bool:
    """Whether transformers itself has the model's classes, so that the repository's code is not needed."""
    import transformers

    return described.get("model_type") in transformers.CONFIG_MAPPING and any(
        hasattr(transformers, name) for name in described.get("architectures") or ()
    )


def read_config(directory: Path, name: str, *, trust_remote_code: bool, gguf_file: str | None = None) -> Any:
    """Return the model's configuration object, from `config.json` or a GGUF file."""
    require_export_packages(f"model {name!r}")
    from transformers import AutoConfig

    place = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        found = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, **place)
    except Exception as error:  # classes of configurations raise errors of any type for a value that they do not take
        raise SourceError(
            f"model {name!r}",
            f"transformers cannot read its configuration: {first_line(error)}",
            f"check {gguf_file or 'config.json'}",
        ) from error
    return _settled(found) if _is_of_timm(found) else found


def _is_of_timm(config: Any) -> bool:
    return bool(getattr(config, "model_type", "") == "timm_wrapper")


def _settled(config: Any) -> Any:
    """Return a configuration that timm wrote as transformers needs it: timm names no class of the model, and states the
    number of its labels twice, which transformers passes on twice."""
    config.model_args = {key: value for key, value in (config.model_args or {}).items() if key != "num_classes"}
    if config.num_labels and not config.architectures:
        config.architectures = ["TimmWrapperForImageClassification"]
    return config


def read_transformer(directory: Path, name: str, config: Any, *, trust_remote_code: bool) -> Any:
    """Return the model that gives the last hidden state, without a head; of an encoder-decoder, the encoder alone.

    A pooler that the checkpoint lacks is filled with random numbers: it has no part in the last hidden state.

    Raises:
        SourceError: as `read_model`.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    with_code = _runs_code(config, trust_remote_code)
    cls = AutoModelForTextEncoding if _has_encoder(config) and not with_code else AutoModel
    return read_class(cls, directory, name, trust_remote_code=trust_remote_code, may_lack="pooler.")


def _has_encoder(config: Any) -> bool:
    """Whether a configuration is of an encoder with a decoder, or of the encoder that was saved without it."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODERS

    alone = ENCODERS.get(getattr(config, "model_type", ""))
    return getattr(config, "is_encoder_decoder", False) or alone in (getattr(config, "architectures", None) or ())


def read_model(directory: Path, name: str, config: Any, *, trust_remote_code: bool) -> Any:
    """Return the model that `config.architectures` names, on the CPU in 32-bit floats.

    Raises:
        SourceError: transformers has no such class; weights are missing, truncated, or do not fit the configuration.
    """
    cls = class_of(config, trust_remote_code=trust_remote_code)
    if not _runs_code(config, trust_remote_code):
        _require_class(name, config)
    own = {"config": config} if _is_of_timm(config) else {}
    return read_class(cls, directory, name, trust_remote_code=trust_remote_code, **own)


def read_gguf(path: Path, name: str, config: Any) -> Any:
    """Return the model in a GGUF file, with its weights in 32-bit floats: one that writes text.

    Raises:
        SourceError: transformers does not read this kind of model, or weights are missing.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    cls = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
    return read_class(cls, path.parent, name, trust_remote_code=False, gguf_file=path.name)


def read_class(
    cls: Any,
    directory: Path,
    name: str,
    *,
    trust_remote_code: bool,
    may_lack: str | tuple[str, ...] | None = None,
    **others: Any,
) -> Any:
    """Return the model of a class.

    Args:
        may_lack: beginnings of the names of weights that may be missing, or be of another shape.
        others: arguments of `from_pretrained`.

    Raises:
        SourceError: as `read_model`.
    """
    import torch

    # Of weights that have another shape than the configuration states, transformers tells only where it goes on.
    how = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True, **others}
    remote = {"trust_remote_code": True} if trust_remote_code else {}
    try:
        with quiet():
            model, found = cls.from_pretrained(directory, **how, **remote)
    except Exception as error:
        raise SourceError(
            f"model {name!r}", f"its weights cannot be read: {type(error).__name__}: {error}", "fetch or save it again"
        ) from error
    _require_weights(cls.__name__, name, found, may_lack)
    return model


def _require_weights(
    class_name: str, name: str, found: Mapping[str, Any], may_lack: str | tuple[str, ...] | None
) -> None:
    """Refuse a model of which weights were filled with random numbers.

    Raises:
        SourceError: weights are missing, or of other shapes than the configuration states.
    """
    others = [item for item in found.get("mismatched_keys", ()) if may_lack is None or not item[0].startswith(may_lack)]
    if others:
        key, there, stated = others[0]
        why = f"{key} and {len(others) - 1} more" if len(others) > 1 else str(key)
        raise SourceError(
            f"model {name!r}",
            f"weights have other shapes than the configuration states: {why} ({list(there)}, not {list(stated)})",
            "give the configuration with which the checkpoint was saved",
        )
    missing = sorted(key for key in found.get("missing_keys", ()) if may_lack is None or not key.startswith(may_lack))
    if missing:
        raise SourceError(
            f"model {name!r}",
            f"{len(missing)} weights of {class_name} are not in the checkpoint ({', '.join(missing[:3])}, …); "
            "transformers would fill them with random numbers",
            "name the right class in config.architectures, or pass the model itself",
        )


def class_of(config: Any, *, trust_remote_code: bool) -> Any:
    """Return the class that `config.architectures` names, or that of the repository's own code."""
    return _remote_class(config) if _runs_code(config, trust_remote_code) else resolve_class(config)


def _runs_code(config: Any, trust_remote_code: bool) -> bool:
    return trust_remote_code and bool(getattr(config, "auto_map", None))


def _require_class(name: str, config: Any) -> None:
    """Refuse a model of a class that is not transformers': the bare model would lack its head, and compute otherwise.

    Raises:
        SourceError: `config.architectures` names classes, and transformers has none of them.
    """
    import transformers

    classes = getattr(config, "architectures", None) or ()
    if classes and not any(hasattr(transformers, one) for one in classes):
        raise SourceError(
            f"model {name!r}",
            f"its config.json names {classes[0]}, which transformers {transformers.__version__} does not have",
            "pass the model itself; or name a class of transformers there, under architectures",
        )


def _remote_class(config: Any) -> Any:
    import transformers

    names = [name for name in config.auto_map if name.startswith("AutoModel")]
    return getattr(transformers, names[0]) if names else transformers.AutoModel


def named(config: Any, class_name: str) -> Any:
    """Return a configuration of transformers with the name of the model's class, as `save_pretrained` of the model
    writes it."""
    if config is None or not class_name:
        return config
    found = copy.copy(config)
    found.architectures = [class_name]
    return found


def read_processor(directory: Path, *, trust_remote_code: bool = False, gguf_file: str | None = None) -> Any:
    """Return the tokenizer or processor that encodes raw data for this model, or None if the directory has none.

    Args:
        trust_remote_code: run code that comes with the processor; if False, such a processor is left out. It is always
            passed on, since transformers would ask on the terminal otherwise.
        gguf_file: the name of the file that holds the tokenizer.
    """
    files = ("tokenizer_config.json", "tokenizer.json", "preprocessor_config.json", "processor_config.json")
    if not gguf_file and not any((directory / name).is_file() for name in files):
        return None
    from transformers import AutoProcessor, AutoTokenizer

    try:
        with quiet():
            if gguf_file:
                return AutoTokenizer.from_pretrained(directory, gguf_file=gguf_file)
            return AutoProcessor.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - a processor is optional: without one, inputs are drawn
        logging.getLogger(__name__).info("no processor read from %s: %s", directory, error)
        return None


def read_media_processor(directory: Path, medium: str) -> Any:
    """Return what encodes pictures or sounds for this model, or None if the directory has none.

    Args:
        medium: "picture" or "sound".
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    cls = AutoImageProcessor if medium == "picture" else AutoFeatureExtractor
    try:
        with quiet():
            return cls.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - transformers raises errors of any type where it finds none
        logging.getLogger(__name__).info("no processor of %ss read from %s: %s", medium, directory, error)
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the prints, logs and progress bars of transformers and the exporters; errors are still raised.

    With the logger "optimum_core" at DEBUG, everything is shown.
    """
    from transformers.utils import logging as hf_logging

    if logging.getLogger("optimum_core").isEnabledFor(logging.DEBUG):
        yield
        return
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with silence():
            yield
    finally:
        hf_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
