"""The loop of greedy decoding and plain sampling, without torch."""

from __future__ import annotations

from collections.abc import Callable, Generator

import numpy as np

from optimum_core.errors import InputError
from optimum_core.generation.decoder_session import Decoder
from optimum_core.generation.sampling import allowed, chooser, needs_history
from optimum_core.generation.settings import Settings
from optimum_core.types.arrays import NDArray


def next_tokens(
    decoder: Decoder,
    ids: NDArray,
    settings: Settings,
    mask: NDArray | None = None,
    ended: NDArray | None = None,
    note: Callable[[NDArray, NDArray], None] | None = None,
) -> Generator[NDArray, None, None]:
    """Yield the next token of every row [rows], until all rows have ended or `max_new_tokens` have come.

    An ended row goes on with the padding id, as in transformers. The state is freed when the iterator ends or is
    closed.

    Args:
        ids: the prompt, int64 [rows, length]; shorter rows are padded on the left.
        mask: 1 for a token, 0 for padding; None: all are tokens.
        ended: bool [rows]; set here as rows end, and by the caller for rows that are to end.
        note: is told the model's scores [rows, vocabulary] and the tokens of each step, before these are yielded.

    Raises:
        InputError: there is no token, a row ends with padding, the prompt leaves no room below `max_length`, or the
            call asks for more tokens than the model has positions.
    """
    if mask is not None and not mask[:, -1:].all():
        raise InputError("generate", "attention_mask has padding at the end of a row", "pad on the left")
    length = ids.shape[1]
    settings = settings.for_prompt(length)
    if settings.is_asked:
        decoder.check_room(length if mask is None else int(mask.sum(1).max()), settings.max_new_tokens)
    generation = decoder.begin(len(ids))
    choose, ends = chooser(settings), np.asarray(settings.eos, np.int64)
    grows = needs_history(settings)
    if ended is None:
        ended = np.zeros(len(ids), bool)
    try:
        scores = generation.feed(ids, mask, "counts", "last")[:, -1]
        # To the repetition penalty, padding is no token that has occurred.
        occurred = ids if mask is None else np.where(mask == 1, ids, ids[:, -1:])
        for number in range(1, settings.max_new_tokens + 1):
            chosen = np.where(ended, settings.pad, choose(occurred, allowed(scores, settings, number, length, ids)))
            if note is not None:
                note(scores, chosen)
            yield chosen
            ended |= (chosen[:, None] == ends).any(1)  # a tenth of the time of np.isin
            if number == settings.max_new_tokens or ended.all():
                return
            if grows:
                ids, occurred = (np.concatenate([found, chosen[:, None]], axis=1) for found in (ids, occurred))
            scores = generation.feed(chosen[:, None], None, "counts", "last")[:, -1]
    finally:
        generation.close()
