"""Write a model of about 500 MB with random weights: `large_model DIRECTORY`. Prints the bytes of its weights."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """A BERT as wide as the large one, and eight layers deep: 133 million parameters."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=8)
    directory = Path(sys.argv[1])
    BertForSequenceClassification(config).save_pretrained(directory)
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    print(size, flush=True)  # noqa: T201 - the answer to the process that measures


if __name__ == "__main__":
    main()
