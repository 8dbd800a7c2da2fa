"""Tokens from texts and chats, and text from tokens as they come, with the `tokenizers` package alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimum_core.artifact.embedding import EmbeddingSettings
from optimum_core.errors import InputError, OptionError, UnavailableError
from optimum_core.generation.chats import TEMPLATE_ERRORS, Chat, read_template, rendered, splits_special_tokens
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.encoder_decoder_session import EncoderDecoder
from optimum_core.generation.loop import next_tokens
from optimum_core.generation.scores import Scoring
from optimum_core.generation.settings import Settings, start_ids
from optimum_core.packages import present
from optimum_core.types import LastPiece, TokenIds
from optimum_core.types.arrays import NDArray

#: A text, a chat, or ids.
Prompt = str | Chat | TokenIds
Drives = Decoder | EncoderDecoder
#: A decoder, its first tokens [rows, length], and their mask; None: all are tokens.
Begun = tuple[Decoder, NDArray, NDArray | None]
_TOKENIZER = "tokenizer.json"
_INCOMPLETE = "\ufffd"  # a character whose bytes have not all come yet


@dataclass(frozen=True, kw_only=True, slots=True)
class TextCodec:
    """A model's tokenizer, and its chat template.

    Attributes:
        tokenizer: a `tokenizers.Tokenizer`.
        template: the chat template, in Jinja; None: the model has none.
        specials: special tokens by the names that templates use ("bos_token").
    """

    who: str
    tokenizer: Any
    template: str | None = None
    specials: Mapping[str, str] = field(default_factory=dict)

    def encode(self, prompts: Sequence[Prompt], pad: int, *, right: bool = False) -> tuple[NDArray, NDArray]:
        """Return ids and mask [rows, length], padded on the left, or on the right as encoders need it.

        Raises:
            InputError: a prompt has no tokens.
            UnavailableError: a chat came, and there is no template or jinja2.
        """
        rows = [self.ids_of(prompt) for prompt in prompts]
        if any(not row for row in rows):
            raise InputError(self.who, "a prompt is empty", "pass a text with at least one token")
        length = max(map(len, rows))
        ids = np.full((len(rows), length), pad, np.int64)
        mask = np.zeros((len(rows), length), np.int64)
        for index, row in enumerate(rows):
            start = 0 if right else length - len(row)
            ids[index, start : start + len(row)], mask[index, start : start + len(row)] = row, 1
        return ids, mask

    def ids_of(self, prompt: Prompt) -> list[int]:
        """Return the ids of a text, or of a chat by the template; those of ids are themselves."""
        if isinstance(prompt, TokenIds):
            return list(prompt)
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        check_characters(text)
        return list(self.tokenizer.encode(text, add_special_tokens=isinstance(prompt, str)).ids)

    def render(self, chat: Chat) -> str:
        """Return a chat as the model's template writes it, up to the place of the answer.

        Raises:
            UnavailableError: there is no template, or jinja2 is not installed.
            InputError: the template refuses the chat.
        """
        if self.template is None:
            raise UnavailableError(self.who, "it has no chat template", "pass the text itself")
        if not present("jinja2"):
            raise UnavailableError(self.who, "nothing here renders its chat template", "pip install jinja2")
        from jinja2.exceptions import TemplateError

        if not chat:
            raise InputError(self.who, "the chat has no message", "pass at least one")
        try:
            text = rendered(self.template, chat, self.specials)
        except (TemplateError, *TEMPLATE_ERRORS) as error:
            why = f"its chat template refuses the messages: {error}"
            raise InputError(self.who, why, 'check roles, and that every "content" is a text') from error
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def check_characters(text: str) -> None:
    """Refuse a text with half of a surrogate pair, which no tokenizer reads.

    Raises:
        InputError: it holds one.
    """
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        why = "it holds half of a surrogate pair, which is no character"
        remedy = "decode it with errors='replace', or pass text.encode('utf-8', 'replace').decode()"
        raise InputError(f"text {text!r:.60}", why, remedy)


def plain_tokenizer(directory: Path, who: str) -> Any:
    """Return the `tokenizers.Tokenizer` beside a model, which neither cuts nor pads.

    Raises:
        UnavailableError: there is none, or the package `tokenizers` is not installed.
    """
    if not (directory / _TOKENIZER).is_file():
        raise UnavailableError(who, f"it has no {_TOKENIZER}", "pass ids instead of texts")
    if not present("tokenizers"):
        raise UnavailableError(who, "nothing here reads its tokenizer", "pip install tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = splits_special_tokens(directory)
    lower(tokenizer, EmbeddingSettings.read(directory))
    return tokenizer


def lower(tokenizer: Any, settings: EmbeddingSettings) -> None:
    """Let a `tokenizers.Tokenizer` lower-case texts first, where the settings ask for it."""
    if settings.do_lower_case:
        from tokenizers import normalizers

        own = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def read_codec(directory: Path, who: str) -> TextCodec:
    """Return the tokenizer beside a model.

    Raises:
        UnavailableError: there is none, or the package `tokenizers` is not installed.
    """
    tokenizer = plain_tokenizer(directory, who)
    template, specials = read_template(directory)
    return TextCodec(who=who, tokenizer=tokenizer, template=template, specials=specials)


@dataclass(kw_only=True, slots=True)
class TextStream:
    """Text of one row, piece by piece, as its tokens come; held back while it may be the beginning of a stop string.

    Attributes:
        stops: texts that end the row; they are not part of its text.
        ended: one of them has come.
    """

    codec: TextCodec
    stops: tuple[str, ...] = ()
    ended: bool = False
    _ids: list[int] = field(default_factory=list)
    _shown: int = 0
    _read: int = 0
    _held: str = ""

    def put(self, token: int) -> str:
        """Return the text that is certain now; it may be empty."""
        self._ids.append(token)
        before = self.codec.decode(self._ids[self._shown : self._read])
        now = self.codec.decode(self._ids[self._shown :])
        if len(now) <= len(before) or now.endswith(_INCOMPLETE):
            return ""
        self._shown, self._read = self._read, len(self._ids)
        return self._without_stops(now[len(before) :])

    def finish(self, *, is_complete: bool) -> LastPiece:
        """Return the rest of the text, once no token comes any more.

        Args:
            is_complete: an end token has come.
        """
        rest = ""
        if not self.ended:
            before = self.codec.decode(self._ids[self._shown : self._read])
            rest = self._without_stops(self.codec.decode(self._ids[self._shown :])[len(before) :])
        return LastPiece(rest if self.ended else rest + self._held, is_complete=is_complete or self.ended)

    def _without_stops(self, piece: str) -> str:
        text = self._held + piece
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if found:
            self.ended, self._held = True, ""
            return text[: min(found)]
        kept = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of a text that is a beginning of a stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)


def _begun(drives: Drives, codec: TextCodec, prompts: Sequence[Prompt], settings: Settings) -> Begun:
    """Return the decoder for these prompts, its first tokens, and their mask."""
    if isinstance(drives, Decoder):
        return (drives, *codec.encode(prompts, settings.pad))
    ids, mask = codec.encode(prompts, settings.pad, right=True)
    return drives.after({"input_ids": ids, "attention_mask": mask}), start_ids(settings, len(ids), codec.who), None


def stream_texts(
    drives: Drives,
    codec: TextCodec,
    prompts: Sequence[Prompt],
    settings: Settings,
    stops: Sequence[str] = (),
    logprobs: int | None = None,
) -> Iterator[list[str]]:
    """Yield the new text of every row, piece by piece; the pieces of a row, joined, are its text, and the last one is a
    `LastPiece`.

    Args:
        logprobs: each piece is a `ScoredPiece` with so many likeliest tokens, but for that of an end token; None: it
            is a text alone.

    Raises:
        InputError, UnavailableError: as `TextCodec.encode`.
    """
    yield from stream_rows(_begun(drives, codec, prompts, settings), codec, settings, stops, logprobs)


def stream_rows(
    begun: Begun,
    codec: TextCodec,
    settings: Settings,
    stops: Sequence[str] = (),
    logprobs: int | None = None,
) -> Iterator[list[str]]:
    """Yield the new text of every row behind a decoder that has begun, as `stream_texts` does."""
    decoder, ids, mask = begun
    ended = np.zeros(len(ids), bool)
    streams = [TextStream(codec=codec, stops=tuple(stops)) for _ in ids]
    scoring = None if logprobs is None else Scoring(codec.tokenizer, logprobs)
    for tokens in next_tokens(decoder, ids, settings, mask, ended, None if scoring is None else scoring.note):
        pieces = []
        for row, (stream, token) in enumerate(zip(streams, tokens, strict=True)):
            is_over = ended[row] or token in settings.eos
            piece = "" if is_over else stream.put(int(token))
            pieces.append(piece if is_over or scoring is None else scoring.scored(row, piece))
            ended[row] |= stream.ended
        yield pieces
    yield [stream.finish(is_complete=bool(end)) for stream, end in zip(streams, ended, strict=True)]


def generate_texts(
    drives: Drives, codec: TextCodec, prompts: Sequence[Prompt], settings: Settings, stops: Sequence[str] = ()
) -> list[str]:
    """Return the new text of every row."""
    texts = [""] * len(prompts)
    for pieces in stream_texts(drives, codec, prompts, settings, stops):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    return texts


def checked_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the texts that end a row.

    Raises:
        OptionError: one is empty, or no text.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(item, str) and item for item in stops):
        raise OptionError("stop", f"{stops!r} makes no sense", "pass texts of at least one character")
    return stops
