"""Adapter to the ONNX Runtime fusions that transformers ships (`transformers.exporters.onnxruntime_fusions`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimum_core.backend import silence
from optimum_ort.storage import DATA, EXTERNAL_TENSOR_BYTES, MODEL

_NOISY = ("transformers", "onnxscript", "onnx_ir", "torch")


def fuse(model: Path, folder: Path, target: str, external: bool) -> None:
    """Fuse `model` for ONNX Runtime's provider `target` ("cpu", "cuda", "dml") and write it into `folder`.

    Raises whatever the two libraries raise; the caller knows the context and translates the error.
    """
    import onnx_ir
    from transformers.exporters.onnxruntime_fusions import fuse_for_onnxruntime

    with silence(*_NOISY), _refusing_at_the_first_node():
        graph = onnx_ir.load(model)
        ir_version = graph.ir_version
        fuse_for_onnxruntime(graph, target)
        graph.ir_version = ir_version  # an onnxruntime older than the onnx package refuses newer ones
        data = DATA if external else None
        onnx_ir.save(graph, folder / MODEL, external_data=data, size_threshold_bytes=EXTERNAL_TENSOR_BYTES)


@contextmanager
def _refusing_at_the_first_node() -> Iterator[None]:
    """Let patterns with several outputs check the operator of their first node before anything else.

    onnxscript tries them at every node of the graph, with all combinations of further nodes, and only then finds the
    first one to be another operator: minutes for a graph of 3000 nodes.
    """
    try:
        from onnxscript.rewriter._basics import MatchResult
        from onnxscript.rewriter._matcher import SimplePatternMatcher
    except ImportError:  # another version: it works without, if slowly
        yield
        return
    match = SimplePatternMatcher.match

    def quick(self: Any, model: Any, graph: Any, node: Any, **others: Any) -> Any:
        pattern = self.pattern
        if not pattern.has_single_output_node:
            wanted = pattern.output_nodes[0].op_identifier()
            if wanted is not None and wanted != node.op_identifier():
                return MatchResult().fail("The first node is another operator.")
        return match(self, model, graph, node, **others)

    SimplePatternMatcher.match = quick
    try:
        yield
    finally:
        SimplePatternMatcher.match = match
