"""Comparison of the package `tokenizers` alone with transformers, on the tokenizer beside a model.

transformers may build a tokenizer anew from the vocabulary in `tokenizer.json` and what its class or
`tokenizer_config.json` states, so that the two need not read a text alike.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optimum_core.models.data.texts import Item, Text, plain_reader, transformers_reader
from optimum_core.models.pretrained import quiet

_FILE, _SEGMENTS = "tokenizer.json", "token_type_ids"
_NAMES = ("input_ids", _SEGMENTS)
_LONG = 3000
#: Texts in which tokenizers differ: case, accents, spaces, line ends, numbers, scripts, marks, and none at all.
_TEXTS: tuple[Text, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    "Don't stop: it's 3.14159 (or 22/7), isn't it?!  Two  spaces,\ta tab\nand a line.",
    " before and behind ",
    "Naïve café, ÅNGSTRÖM, İstanbul, ﬁne, e\u0301, ½, ＡＢＣ",
    "Быстрая лиса; 素早い狐が跳ぶ。빠른 여우; الثعلب السريع; नमस्ते; สวัสดี",
    "\U0001f98a\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2014 \u201cquoted\u201d \u2026 \u00a0\u200b\ufeff",
    "def f(x):\n    return x ** 2  # x\u00b2\r\n\r\n",
    "",
    " ",
    "w0 w1 w2 w10 w99",
    "word " * _LONG,
    "x" * 300,
)
_PAIRS: tuple[Text, ...] = (("What is it?", "It is a fox."), ("", "It is a fox."), ("long " * _LONG, "short"))


def reads_alike(directory: Path, taken: Collection[str]) -> bool | None:
    """Return whether `tokenizers` alone makes the same inputs of texts as transformers does, also of the tokenizer's
    files as transformers writes them anew; None: there is no tokenizer that both read.

    Args:
        directory: of a model, with the files of its tokenizer.
        taken: names of the inputs that the model takes.
    """
    if not (directory / _FILE).is_file():
        return None
    try:
        with quiet():
            theirs = transformers_reader(directory)
    except Exception as error:  # noqa: BLE001 - a tokenizer that transformers does not read is compared with nothing
        logging.getLogger(__name__).info("no tokenizer of %s: %s", directory, error)
        return None
    texts = (*_TEXTS, *_marks(theirs.tokenizer))
    with TemporaryDirectory() as folder, quiet():
        again = Path(folder)
        for file in directory.glob("*.json"):
            shutil.copyfile(file, again / file.name)
        theirs.tokenizer.save_pretrained(again)
        for place in (directory, again):
            ours = plain_reader(place, f"tokenizer of {directory}")
            for given in (texts, _PAIRS):
                for truncate in (True, False):
                    found = (_inputs(reader, given, taken, truncate) for reader in (theirs, ours))
                    if next(found) != next(found):
                        return False
    return True


def _marks(tokenizer: Any) -> Iterable[str]:
    """Return texts with the special and added tokens of a tokenizer."""
    words = list(dict.fromkeys(token.content for token in tokenizer.added_tokens_decoder.values()))[:8]
    return [" ".join(["a", *words, "b"]), "".join(words), *(f"a{word} b" for word in words[:2])] if words else []


def _inputs(reader: Any, texts: tuple[Text, ...], taken: Collection[str], truncate: bool) -> Any:
    """Return what a reader makes of texts, or the kind of its error: some tokenizers take no pairs."""
    try:
        return [_compared(item, taken) for item in reader.encode(texts, truncate=truncate)]
    except Exception as error:  # noqa: BLE001 - of whatever type
        return type(error)


def _compared(item: Item, taken: Collection[str]) -> Mapping[str, list[int]]:
    return {name: list(item[name]) for name in _NAMES if name in item and name in taken}
