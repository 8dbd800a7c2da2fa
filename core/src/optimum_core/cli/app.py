"""The commands, each a thin layer over the library. Slow modules are imported by the commands that need them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optimum_core import __version__
from optimum_core.cli.accelerate import accelerate
from optimum_core.cli.accept import accept
from optimum_core.cli.arguments import Json, Verbose, typed
from optimum_core.cli.commands import CommandGroup
from optimum_core.cli.new_backend import new_backend
from optimum_core.cli.retune import retune
from optimum_core.errors import ArtifactError, InputError, OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from optimum_core.artifact import Manifest
    from optimum_core.cache import CacheEntry
    from optimum_core.types import Report


def _on_version(value: bool) -> None:
    if value:
        typer.echo(f"optimum-core {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_on_version, is_eager=True, help="Show the version and exit.")
]

# For an option without a default, such as its own --help and those of completion, typer imports pydantic, which takes
# longer than all of our imports.
_FAST: dict[str, Any] = {
    "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False),
    "help_option_names": ["-h", "--help"],
}
_PLAIN: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "no_args_is_help": True,
    "context_settings": _FAST,
}
app = typer.Typer(
    **_PLAIN, cls=CommandGroup, help="Take Hugging Face models to the fastest correct form that this machine runs."
)
cache_app = typer.Typer(**_PLAIN, add_completion=False, help="Show or clear what is kept on disk.")
app.add_typer(cache_app, name="cache")
app.command("accelerate", context_settings=_FAST)(accelerate)
app.command("new-backend", context_settings=_FAST)(new_backend)
app.command("retune", context_settings=_FAST)(retune)
app.command("accept", context_settings=_FAST)(accept)


@app.callback()
def _root(version: Version = False, verbose: Verbose = False) -> None:
    """Options of the command itself; their callbacks have done the work."""


@app.command("plugins", context_settings=_FAST)
def list_plugins(as_json: Json = False, verbose: Verbose = False) -> None:
    """Show the backends and what each can do here."""
    from optimum_core.cli.backends import plugins_data, survey_plugins

    infos, supports = survey_plugins()
    _tell_of_unknown_names([info.name for info in infos])
    if as_json:
        _write_json(plugins_data(infos, supports))
        return
    from optimum_core.cli.show import show_plugins

    show_plugins(_stdout(), infos, supports)


@app.command("doctor", context_settings=_FAST)
def examine(as_json: Json = False, verbose: Verbose = False) -> None:
    """Show the page to paste into a bug report."""
    from optimum_core.cli.diagnosis import diagnose, diagnosis_data

    diagnosis = diagnose()
    _tell_of_unknown_names([info.name for info in diagnosis.plugins])
    if as_json:
        _write_json(diagnosis_data(diagnosis))
        return
    from optimum_core.cli.doctor import show_diagnosis

    show_diagnosis(_stdout(), diagnosis)


@app.command("report", context_settings=_FAST)
def report(
    directory: Annotated[Path, typer.Argument(help="A directory written by `accelerate` or `save_pretrained`.")],
    as_json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="A Markdown table.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Write a bar chart to this file.")] = None,
    verbose: Verbose = False,
) -> None:
    """Show what was tried for a saved artifact."""
    from optimum_core.artifact import load

    if as_json and markdown:
        raise typer.BadParameter("give one of them: each writes to stdout", param_hint="'--json' / '--markdown'")
    manifest = load(directory, verify_files=False)
    if svg is not None:
        _write_picture(manifest, svg, directory)
    if as_json:
        from optimum_core.artifact.serialization import to_plain

        # The form of optimum.json, so that one parser reads both; the files' digests are not needed here.
        tree = to_plain(manifest, f"artifact {directory}")
        _write_json({key: value for key, value in tree.items() if key not in ("files", "model_files")})
        return
    if markdown:
        typer.echo(_report_of(manifest, directory).to_markdown())
    elif svg is None:
        from optimum_core.cli.report import show_artifact

        show_artifact(_stdout(), manifest)


def _report_of(manifest: Manifest, directory: Path) -> Report:
    if manifest.report is None:
        raise ArtifactError(f"artifact {directory}", "it carries no report", "accelerate the model again")
    return manifest.report


def _write_picture(manifest: Manifest, svg: Path, directory: Path) -> None:
    """Write the bar chart, and create its directory."""
    picture = _report_of(manifest, directory).to_svg()
    try:
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(picture, encoding="utf-8")
    except OSError as error:
        who = f"picture {svg}"
        raise ArtifactError(who, f"it cannot be written: {error.strerror}", "name a file that can be") from error


#: Tokens that `generate` writes at most, unless said.
_NEW = 256


@app.command("generate", context_settings=_FAST)
def generate_text(
    artifact: Annotated[Path, typer.Argument(help="A directory that accelerate wrote, of a model that generates.")],
    prompt: Annotated[str, typer.Argument(help="The text to go on from, or the question; - reads it from stdin.")],
    max_new_tokens: Annotated[int | None, typer.Option(help="The greatest number of tokens; 256 unless said.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Draw tokens; under 1, likely ones more often.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from that many of the likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest that have this share.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Over 1: repeat less.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text to stop at; may be given several times.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Pass the text as it is, without the chat template.")] = False,
    target: Annotated[str | None, typer.Option(help="Another backend or device than it was tuned for.")] = None,
    verbose: Verbose = False,
) -> None:
    """Write the model's answer, token by token. Needs neither torch nor transformers."""
    from optimum_core import load

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise InputError("prompt", "it is empty", "pass a text, or one on stdin where it is -")
    model = load(artifact, target=target)
    given = [{"role": "user", "content": text}] if not plain and model.has_chat_template else text
    if max_new_tokens is None:
        room = model.room_behind(given)
        max_new_tokens = _NEW if room is None else max(min(_NEW, room), 1)
    pieces = model.generate(
        given,
        stream=True,
        stop=stop or (),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


@cache_app.command("list", context_settings=_FAST)
def list_cache(as_json: Json = False, verbose: Verbose = False) -> None:
    """Show what is kept, its size and last use."""
    from optimum_core.cache import Cache

    cache = Cache()
    entries = cache.list()
    if as_json:
        total = sum(entry.size for entry in entries)
        _write_json({"path": str(cache.root), "size": total, "entries": [_entry_data(entry) for entry in entries]})
        return
    from optimum_core.cli.doctor import show_cache

    show_cache(_stdout(), cache.root, entries)


@cache_app.command("clear", context_settings=_FAST)
def clear_cache(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only what was not used for so long: 12h, 7d, 4w.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    verbose: Verbose = False,
) -> None:
    """Remove what is kept; what is in use stays."""
    from optimum_core.cache import Cache
    from optimum_core.cli.doctor import idle_time
    from optimum_core.cli.values import count, parse_age, size_words

    age = None if older_than is None else typed(parse_age, older_than, "--older-than")
    cache = Cache()
    gone = [entry for entry in cache.list() if age is None or idle_time(entry) >= age]
    size = size_words(sum(entry.size for entry in gone))
    question = f"Remove {count(len(gone), 'entry', 'entries')} ({size}) from {cache.root}?"
    # Also where nothing is listed: leftovers of killed processes are not.
    if gone and not yes and not _confirmed(question):
        _tell(_stdout(), "Nothing was removed.")
        return
    _tell(_stdout(), f"{size_words(cache.clear(age))} freed.")


def _entry_data(entry: CacheEntry) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "key": entry.key,
        "description": entry.description,
        "path": str(entry.path),
        "size": entry.size,
        "created": entry.created.isoformat(),
        "last_used": entry.last_used.isoformat(),
    }


def _confirmed(question: str) -> bool:
    """Whether the user confirms, on stderr. Not typer's prompt: it handles Ctrl-C as an answer, with exit code 1."""
    _tell(_stderr(), f"{question} [y/N] ", end="")
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer:
        _tell(_stderr(), "")
        raise OptionError("cache clear", "there is no terminal to ask on whether to remove it", "pass --yes")
    return answer.strip().lower() in ("y", "yes")


def _tell_of_unknown_names(known: Sequence[str]) -> None:
    """Tell of names in `OPTIMUM_DISABLED_BACKENDS` that are no backend: nothing is switched off by them."""
    from optimum_core.plugins import DISABLED_ENV, unknown_disabled

    for name, near in unknown_disabled(known):
        hint = f"; did you mean {near!r}?" if near else ""
        _tell(_stderr(), f"{DISABLED_ENV} names {name!r}, and no backend has this name{hint}")


def _write_json(tree: Any) -> None:
    from optimum_core.cli.backends import json_text

    typer.echo(json_text(tree))


def _stdout() -> Console:
    from optimum_core.cli.console import make_console

    return make_console(sys.stdout)


def _stderr() -> Console:
    from optimum_core.cli.console import make_console

    return make_console(sys.stderr)


def _tell(console: Console, text: str, end: str = "\n") -> None:
    from optimum_core.cli.console import tell

    tell(console, text, end)
