"""Settings of a server: flags over environment over a YAML file, checked as one structure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from optimum_core.errors import OptionError

PREFIX = "OPTIMUM_SERVE_"
#: Arguments of `generate` that every request has already.
_OF_REQUESTS = ("max_new_tokens", "max_length", "stream", "stop")
#: Names stand in paths.
_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\s]+")
Count = Annotated[int, Meta(ge=1)]
#: An origin as browsers send it, or all of them.
Origin = Annotated[str, Meta(pattern=r"^(\*|[a-z][a-z0-9+.-]*://[^/]+)$")]
Seconds = Annotated[float, Meta(gt=0)]


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to serve.

    Attributes:
        source: a directory that `accelerate` wrote; or a model's directory or hub id, which is accelerated at the
            start.
        name: in requests; by default the last part of the source.
        aliases: further names in requests, as "text-embedding-3-small" for clients that are not to be changed.
        target: a backend, where the source is accelerated or opened elsewhere than it was tuned for.
        task: of a source that is accelerated, where it is to be another than the source states, as "fill-mask" for a
            `SparseEncoder`.
        objective: what a source is accelerated for: "latency", "throughput", "size" or "energy"; None: as `accelerate`
            chooses.
        generation: arguments of `generate` that go before the server's and before the model's own
            `generation_config.json`, as {"num_beams": 1}; those of a request go before them.
        original: the directory or hub id of the model that an artifact was made from, for `truth_sample`.
    """

    source: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    target: str | None = None
    task: str | None = None
    objective: Literal["latency", "throughput", "size", "energy"] | None = None
    generation: dict[str, Any] = {}  # msgspec copies it
    original: str = ""

    @property
    def original_source(self) -> str:
        """The original, for comparisons."""
        return self.original or self.source

    @property
    def label(self) -> str:
        """The name in requests."""
        return self.name or Path(self.source).expanduser().name or self.source


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a server.

    Attributes:
        models: at least one; the first that can answer is meant where a request names none.
        host, port: where it listens; only on this machine unless told otherwise.
        api_keys: keys of which a request must carry one, as "Authorization: Bearer …"; none: no key is needed.
        cors_origins: origins whose pages may call it.
        max_batch_items, max_batch_tokens: the greatest batch: its rows, and its rows times its longest.
        max_queue: inputs that may wait for one model; beyond, requests get 429.
        max_inputs: inputs of one request.
        auto_truncate: cut texts that are too long to embed, score or classify, where a request does not say.
        max_body, max_bodies: bytes of one request, and of all that are being read or answered, pictures and sounds made
            of them included; beyond, requests get 429.
        max_running: texts that are written in turns at once, for each model.
        continuous_batching: write texts together where the backend can; a runtime that does it by itself, as
            openvino-genai, holds the weights once more.
        max_cache: bytes of keys and values for that, for each model.
        max_new_tokens: the greatest number of tokens that a request may ask for.
        generation: arguments of `generate` for all models, as above.
        timeout: seconds from a request to its answer, or its first token.
        body_timeout: seconds until headers, and then the body, have been sent whole; and between parts of an answer
            that the client takes.
        drain: seconds that running requests may take once the server is told to stop.
        access_log: write a line for each request.
        traces: the address of an OpenTelemetry collector (OTLP over HTTP); none: no traces, unless OpenTelemetry's own
            variables name one.
        traffic_file: shapes of calls and requests are added to this file every minute, and at the end.
        retune_after: calls of a model after which it is tuned for its traffic; 0: only when asked, by POST /retune.
        truth_sample: one input in so many is computed again by the eager model; 0: none.
        drift_window: seconds of the window whose inputs and scores are compared with those of the first; 0: none.
        drift_file: the first window is kept there, and taken from there at the next start.
    """

    models: Annotated[tuple[ModelSettings, ...], Meta(min_length=1)]
    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[Origin, ...] = ()
    max_batch_items: Count = 64
    max_batch_tokens: Count = 8192
    max_queue: Count = 1024
    max_inputs: Count = 1024
    auto_truncate: bool = False
    max_body: Count = 16_000_000
    max_bodies: Count = 1_000_000_000
    max_running: Count = 4
    continuous_batching: bool = True
    max_cache: Count = 1_000_000_000
    max_new_tokens: Count = 4096
    generation: dict[str, Any] = {}
    timeout: Seconds = 60.0
    body_timeout: Seconds = 30.0
    drain: Seconds = 30.0
    access_log: bool = True
    traces: Annotated[str, Meta(pattern=r"^(https?://.+)?$")] = ""
    traffic_file: str = ""
    retune_after: Annotated[int, Meta(ge=0)] = 0
    truth_sample: Annotated[int, Meta(ge=0)] = 0
    drift_window: Annotated[float, Meta(ge=0)] = 0
    drift_file: str = ""


def read_settings(
    flags: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings of a server.

    Args:
        flags: by the names of `Settings`; None: not given.
        file: YAML with the names of `Settings`.
        environment: `OPTIMUM_SERVE_PORT` and so on; lists with commas, `OPTIMUM_SERVE_GENERATION` in YAML.

    Raises:
        OptionError: a name is unknown, a value makes no sense, or two models have one name.
    """
    stated = {
        **(_read_yaml(file) if file is not None else {}),
        **_of_environment(environment),
        **{name: value for name, value in flags.items() if value is not None},
    }
    if unknown := next((name for name in stated if name not in _names()), None):
        known = ", ".join(sorted(_names()))
        raise OptionError("settings of the server", f"there is no setting {unknown!r}", f"settings are {known}")
    if not stated.get("models"):
        raise OptionError("serve", "there is no model", "name one: optimum-core serve DIRECTORY")
    if not isinstance(stated["models"], (list, tuple)):
        raise OptionError("settings of the server", "models is no list", "write models: [DIRECTORY, …]")
    models = [named(model) if isinstance(model, str) else model for model in stated["models"]]
    try:
        settings = msgspec.convert({**stated, "models": models}, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError("settings of the server", str(error), "see docs/serving.md for all of them") from error
    _check_names(settings)
    for generation in (settings.generation, *(model.generation for model in settings.models)):
        _check_generation(generation)
    return settings


def named(model: str) -> dict[str, str]:
    """Return the source of NAME=SOURCE, and its name where it has one.

    Raises:
        OptionError: the name is empty.
    """
    name, equals, source = model.partition("=")
    if equals and not name:
        raise OptionError(f"model {model!r}", "its name is empty", "write NAME=SOURCE, or the source alone")
    return {"source": source, "name": name} if equals and "/" not in name else {"source": model}


class _OnceEach(yaml.SafeLoader):
    """A loader that refuses a name that comes twice in one mapping, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _OnceEach)  # a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OptionError(f"settings in {file}", f"the file cannot be read: {error}", "check it") from error
    if found is not None and not isinstance(found, dict):
        raise OptionError(f"settings in {file}", f"it holds a {type(found).__name__}", "write names and values")
    return found or {}


def _names() -> frozenset[str]:
    return frozenset(field.name for field in msgspec.structs.fields(Settings))


def _of_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known, found = _names(), dict[str, Any]()
    for variable, value in environment.items():
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX):
            continue
        if name not in known:
            raise OptionError(variable, "there is no such setting", f"settings are {', '.join(sorted(known))}")
        is_list = name in ("models", "api_keys", "cors_origins")
        if is_list and not value.strip():
            raise OptionError(variable, "it is set, and empty", "give it a value, or unset it")
        found[name] = [item.strip() for item in value.split(",")] if is_list else value
    if "generation" in found:
        found["generation"] = parsed(found["generation"], f"{PREFIX}GENERATION")
    return found


def parsed(text: str, who: str) -> Any:
    """Return a value in YAML.

    Raises:
        OptionError: it is none.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise OptionError(who, f"{text!r} is no YAML: {error}", "write values as {num_beams: 1}") from error


def _check_generation(generation: Mapping[str, Any]) -> None:
    if name := next((name for name in _OF_REQUESTS if name in generation), None):
        why = f"{name} would have no effect: each request has its own, up to the setting max_new_tokens"
        raise OptionError("settings of the server, generation", why, "leave it out")


def check_label(name: str, who: str) -> None:
    """Refuse a name of a model that would be a part of a path, or two.

    Raises:
        OptionError: it is.
    """
    if not _NAME.fullmatch(name):
        raise OptionError(who, f"a model cannot be named {name!r}", "no slash and no blank, and not dots alone")


def _check_names(settings: Settings) -> None:
    names = [model.label for model in settings.models]
    for name in names:
        check_label(name, "settings of the server")
    for key in settings.api_keys:
        if not key or not key.isascii() or key != key.strip():
            why = "a key is empty, or has blanks around it or other characters than ASCII"
            raise OptionError("settings of the server, api_keys", why, "choose another")
    names += [alias for model in settings.models for alias in model.aliases]
    twice = next((name for name in names if not name or names.count(name) > 1), None)
    if twice is not None:
        raise OptionError("settings of the server", f"two models are named {twice!r}", "give one another name=")
