"""Sources: what a user passes to `accelerate`, opened as a model with its configuration and processor.

`source` opens all of them. In memory, `forms` unwraps modules or refuses them, and `pretrained_cfg` reads what a
model of timm says of itself. On disk there are plain checkpoints (of the precision that `checkpoint` tells;
`configured` reads one under another configuration), `sentences`, `adapters` of PEFT (`adapter_files`), a `gguf_file`,
an `onnx_file` with the `onnx_evaluator` in the place of eager, and an `onnx_directory` (facts of a graph:
`onnx_graph`), whose configuration is in `agreement` with the graph; `converted` is what a backend recognizes as its
runtime's; `files` recognizes all others, `companions` those beside the weights. `resaved_files` tells what the files
beside a model say when they are saved once more.
"""
