"""A new process to its first result: `first_result optimum-core|transformers DIRECTORY`.

Prints, as JSON, its peak memory, a checksum of the result, and whether torch was imported.
"""

from __future__ import annotations

import json
import sys

from tests.benchmarks.children.peak import peak_bytes

TOKENS = [[101, 2129, 2079, 1045, 2131, 2045, 2011, 4049, 1029, 2009, 2003, 2440, 1997, 13569, 1012, 102]]


def with_optimum_core(directory: str) -> float:
    """The artifact, numpy in and out."""
    import numpy as np

    from optimum_core import load

    tokens = np.asarray(TOKENS)
    fast = load(directory)
    given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    return float(fast(**given).last_hidden_state[0, 0, 0])


def with_transformers(directory: str) -> float:
    """The checkpoint, the way that its library documents."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(directory).eval()
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor(TOKENS)).last_hidden_state[0, 0, 0])


def main() -> None:
    """Run one of the two."""
    how, directory = sys.argv[1:]
    value = with_optimum_core(directory) if how == "optimum-core" else with_transformers(directory)
    facts = {"peak": peak_bytes(), "value": value, "torch": "torch" in sys.modules}
    print(json.dumps(facts), flush=True)  # noqa: T201 - the answer to the process that measures


if __name__ == "__main__":
    main()
