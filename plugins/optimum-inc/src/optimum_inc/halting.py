"""Execution of a graph on all calibration batches together, halting at the nodes whose inputs are requested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

#: Bytes that batches may hold at the first halt; reading of batches ends there. Later halts hold some times as much.
LIMIT = 256 * 2**20

Layer = Callable[[torch.Tensor], torch.Tensor]


class HaltingRun(torch.fx.Interpreter):
    """One run through a `torch.fx.GraphModule`, with any number of halts.

    Nodes after a replaced layer get the outputs of its replacement: so each layer is rounded with regard to the
    rounding of those before, at the cost of one run. Between halts one batch runs after another, and for each only the
    values that later nodes need are kept.

    Attributes:
        batches: the number of batches that were read.
    """

    def __init__(self, module: Any, batches: Iterable[Sequence[torch.Tensor]]) -> None:
        super().__init__(module)
        self._unread: Iterator[Sequence[torch.Tensor]] | None = iter(batches)
        self._flatten = module.graph.process_inputs
        self._nodes = list(module.graph.nodes)
        self._at = 0
        self._states: list[dict[Any, Any]] = []
        self._layers: dict[Any, tuple[Any, Layer]] = {}

    @property
    def batches(self) -> int:
        return len(self._states)

    def inputs(self, node: Any, x: Any) -> Iterator[torch.Tensor]:
        """Yield the value of `x` for each batch, run until just before `node`; halts must come in the graph's order."""
        end = self._nodes.index(node, self._at)
        segment, self._at = self._nodes[self._at : end], end
        if self._unread is not None:
            self._begin(self._unread, segment)
            self._unread = None
        else:
            for state in self._states:
                self._continue(state, segment)
        for node in segment:
            self._layers.pop(node, None)
        return (state[x] for state in self._states)

    def replace(self, node: Any, x: Any, layer: Layer) -> None:
        """Replace `node` from here on by `layer` applied to `x`."""
        self._layers[node] = (x, layer)

    def run_node(self, n: Any) -> Any:
        if n in self._layers:
            x, layer = self._layers[n]
            return layer(self.env[x])
        return super().run_node(n)

    def _begin(self, batches: Iterator[Sequence[torch.Tensor]], segment: Sequence[Any]) -> None:
        held = 0
        for tensors in batches:
            self.args_iter = iter(self._flatten(*tensors))
            state: dict[Any, Any] = {}
            self._continue(state, segment)
            self._states.append(state)
            held += sum(_size(value) for node, value in state.items() if node.op != "get_attr")
            if held > LIMIT:
                break

    def _continue(self, state: dict[Any, Any], segment: Sequence[Any]) -> None:
        self.env = state
        with torch.no_grad():
            for node in segment:
                state[node] = self.run_node(node)
                for used in self.user_to_last_uses.get(node, ()):
                    del state[used]


def _size(value: Any) -> int:
    return value.nbytes if isinstance(value, torch.Tensor) else 0
