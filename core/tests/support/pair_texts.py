"""Texts of an encoder with a decoder in the files of another package, compared with the model they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from optimum_core import AcceleratedModel, load


def check_pair(fast: AcceleratedModel, model: Any, folder: Path) -> dict[str, Any]:
    """Check that it writes what the model writes, by search and in beams, after it was saved and loaded too, and that a
    call gives the same logits; return the inputs of that call."""
    assert "unverified against an original, NOT compared" in repr(fast) and fast.task == "text2text-generation"
    ids = torch.tensor(np.random.default_rng(3).integers(3, 99, (3, 9)))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    for beams in (1, 3):
        asked: Any = {"attention_mask": mask, "max_new_tokens": 12, "num_beams": beams, "do_sample": False}
        wanted = model.generate(ids, **asked)
        assert torch.equal(fast.generate(ids, **asked), wanted)
        assert len(set(wanted.flatten().tolist())) > 4
    given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :4]}
    torch.testing.assert_close(fast(**given).logits, model(**given).logits, rtol=1e-3, atol=1e-3)
    fast.save_pretrained(folder)
    numbers = load(folder).generate(ids.numpy(), attention_mask=mask.numpy(), max_new_tokens=6)
    assert np.array_equal(numbers, model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False))
    return given
