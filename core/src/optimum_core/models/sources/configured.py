"""A checkpoint under another configuration than its own, as `from_pretrained(…, config=…)` of transformers reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimum_core.errors import OptionError
from optimum_core.models import pretrained
from optimum_core.models.sources import files

#: Entries of a configuration that say where and by what it was written, and nothing of the model.
_BESIDE_IT = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures")


def configured(place: Any, config: Any, *, who: str, revision: str | None, trust_remote_code: bool) -> Any:
    """Return the model of a checkpoint, read under a configuration; the place itself if its own says the same.

    Raises:
        OptionError: it is no configuration of transformers, or the place holds no checkpoint that could follow it.
        SourceError: the checkpoint cannot be read, or has no weights of the shapes that the configuration states.
    """
    if not callable(getattr(config, "to_dict", None)):
        why, remedy = f"it is a {type(config).__name__}", "pass what AutoConfig.from_pretrained returns"
        raise OptionError(f"{who}, config", why, remedy)
    path = files.local_path(str(place))
    if not path.exists():
        path = pretrained.download(str(place), revision=revision, with_code=trust_remote_code)
    directory = path if path.is_dir() else path.parent
    own = _own(directory, trust_remote_code=trust_remote_code)
    if own is not None and _model_of(own) == _model_of(config):
        return place
    if own is None or path.is_file() or not files.has_weights(path):
        why = f"{str(place)!r} holds no checkpoint that could be read under another configuration than its own"
        raise OptionError(f"{who}, config", why, "leave config out, or change config.json beside the model")
    named = config if config.architectures else pretrained.named(config, (own.architectures or [""])[0])
    cls = pretrained.class_of(named, trust_remote_code=trust_remote_code)
    name = Path(str(place)).name
    return pretrained.read_class(cls, path, name, trust_remote_code=trust_remote_code, config=named)


def _own(directory: Path, *, trust_remote_code: bool) -> Any:
    if not (directory / "config.json").is_file():
        return None
    return pretrained.read_config(directory, directory.name, trust_remote_code=trust_remote_code)


def _model_of(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in _BESIDE_IT}
