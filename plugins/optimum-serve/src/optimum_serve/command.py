"""The verb `optimum-core serve`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from optimum_core.errors import OptionError, UnavailableError


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Directories of accelerate, or models to accelerate; NAME=… gives one its name."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where it listens: 127.0.0.1 unless told, 0.0.0.0 for all.")] = None,
    port: Annotated[int | None, typer.Option(help="8000 unless told.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with any of the settings.")] = None,
    api_key: Annotated[list[str] | None, typer.Option(help="A key that requests must carry.")] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="An origin whose pages may call it.")] = None,
    max_batch_tokens: Annotated[int | None, typer.Option(help="The greatest batch: rows times the longest.")] = None,
    max_queue: Annotated[int | None, typer.Option(help="Inputs that may wait; beyond, 429.")] = None,
    auto_truncate: Annotated[
        bool | None, typer.Option("--auto-truncate", help="Cut texts that are too long, where a request does not say.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="What a request may ask for at most.")] = None,
    generation: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE of generate, before the model's own generation_config.json: num_beams=1."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until an answer, or its first token.")] = None,
    traces: Annotated[str | None, typer.Option(help="An OpenTelemetry collector: http://collector:4318.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Write no line for each request.")] = False,
) -> None:
    """Serve models to clients of OpenAI, text-embeddings-inference and the Open Inference Protocol."""
    import uvicorn

    from optimum_serve.application import create_app
    from optimum_serve.connections import DrainingServer, uvicorn_options
    from optimum_serve.logs import write_json_lines
    from optimum_serve.settings import read_settings

    flags = {
        "models": models or None,
        "host": host,
        "port": port,
        "api_keys": api_key or None,
        "cors_origins": cors_origin or None,
        "max_batch_tokens": max_batch_tokens,
        "max_queue": max_queue,
        "auto_truncate": auto_truncate,
        "max_new_tokens": max_new_tokens,
        "generation": dict(map(_argument, generation)) if generation else None,
        "timeout": timeout,
        "traces": traces,
        "access_log": False if quiet else None,
    }
    settings = read_settings(flags, config)
    write_json_lines()
    _allow_connections()
    server = DrainingServer(uvicorn.Config(create_app(settings, ends_process=True), **uvicorn_options(settings)))
    try:
        with suppress(KeyboardInterrupt):  # Ctrl-C has stopped it already
            server.run()
    except SystemExit as error:  # uvicorn's, of a start that failed
        why = f"it cannot listen at {settings.host}:{settings.port}, as the log says"
        raise UnavailableError("serve", why, "choose another host or port") from error


def _allow_connections() -> None:
    """Let the process hold as many connections as the system allows: many are started with 1,024 files at most."""
    try:
        import resource
    except ImportError:  # on Windows, which has no such limit
        return
    _, greatest = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (greatest, greatest))


def _argument(stated: str) -> tuple[str, Any]:
    """Return an argument of `generate`, by its name."""
    from optimum_serve.settings import parsed

    name, equals, value = stated.partition("=")
    if not name or not equals:
        raise OptionError(f"--generation {stated}", "it is no NAME=VALUE", "write it as num_beams=1")
    return name, parsed(value, f"--generation {stated}")
