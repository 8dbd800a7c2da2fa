"""Recurrent operators, which process a sequence step by step. Sums of 16-bit numbers are taken in 32 bits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from optimum_coreml_interpreter.registry import UndefinedError, flag, operator, wide

Tensor = torch.Tensor
#: Computes the next hidden values from the projected input and the previous hidden values.
Step = Callable[[Tensor, Tensor], Tensor]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    """Return an activation without parameters: the specification does not define the parameters of the others."""
    if name not in _ACTIVATIONS:
        raise UndefinedError(f"activation {name!r}")
    return _ACTIVATIONS[name]


def _projected(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(wide(x), wide(weight), None if bias is None else wide(bias))


def _along(projected: Tensor, hidden: Tensor, step: Step, *, back: bool) -> Tensor:
    """Return the hidden values of every step, in the order of the sequence."""
    found, order = [], range(projected.shape[0])
    for place in reversed(order) if back else order:
        hidden = step(projected[place], hidden)
        found.append(hidden)
    return torch.stack(found[::-1] if back else found)


def _is_back(direction: str) -> bool:
    if direction not in ("forward", "reverse"):
        raise UndefinedError(f"direction {direction!r}")
    return direction == "reverse"


def _last(steps: Tensor, *, back: bool) -> Tensor:
    """Return the hidden values of the step that was computed last."""
    return steps[0] if back else steps[-1]


def _given(steps: Tensor, last: Tensor, whole: Tensor | bool, like: Tensor) -> tuple[Tensor, Tensor]:
    return (steps if flag(whole) else last.unsqueeze(0)).to(like.dtype), last.to(like.dtype)


@operator("rnn")
def _rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    apply, back = _activation(activation), _is_back(direction)

    def step(new: Tensor, hidden: Tensor) -> Tensor:
        return apply(new + hidden @ wide(weight_hh).T)

    steps = _along(_projected(x, weight_ih, bias), wide(initial_h), step, back=back)
    return _given(steps, _last(steps, back=back), output_sequence, x)


@operator("gru")
def _gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """Evaluate a GRU. Gates in the order: reset, output, update."""
    gate, apply, back = _activation(recurrent_activation), _activation(activation), _is_back(direction)
    reset_w, output_w, update_w = wide(weight_hh).T.chunk(3, 1)

    def step(new: Tensor, hidden: Tensor) -> Tensor:
        reset_x, output_x, update_x = new.chunk(3, -1)
        reset, update = gate(reset_x + hidden @ reset_w), gate(update_x + hidden @ update_w)
        return (1 - update) * apply(output_x + reset * (hidden @ output_w)) + update * hidden

    steps = _along(_projected(x, weight_ih, bias), wide(initial_h), step, back=back)
    return _given(steps, _last(steps, back=back), output_sequence, x)


@operator("lstm")
def _lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: Tensor | bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate an LSTM; both directions' hidden values side by side. Peepholes and a clipped cell gate are not
    supported.
    """
    acts = tuple(_activation(name) for name in (recurrent_activation, cell_activation, activation))
    if direction != "bidirectional":
        ways = [(_is_back(direction), weight_ih, weight_hh, bias)]
    else:
        if weight_ih_back is None or weight_hh_back is None:
            raise UndefinedError("no weights for the way back")
        ways = [(False, weight_ih, weight_hh, bias), (True, weight_ih_back, weight_hh_back, bias_back)]
    states = zip(wide(initial_h).chunk(len(ways), 1), wide(initial_c).chunk(len(ways), 1), strict=True)
    found = [
        _one_way(_projected(x, into, bent), torch.cat(state, 1), wide(within), acts, back=back)
        for (back, into, within, bent), state in zip(ways, states, strict=True)
    ]
    steps, hidden, cell = (torch.cat(parts, -1) for parts in zip(*found, strict=True))
    whole = steps if flag(output_sequence) else hidden.unsqueeze(0)
    return whole.to(x.dtype), hidden.to(x.dtype), cell.to(x.dtype)


def _one_way(
    projected: Tensor,
    state: Tensor,
    weight: Tensor,
    activations: tuple[Callable[[Tensor], Tensor], ...],
    *,
    back: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Evaluate one direction. Gates in the order: input, forget, output, cell. The state is the hidden values, with the
    cell's beside them.
    """
    gate, candidate, apply = activations

    def step(new: Tensor, before: Tensor) -> Tensor:
        hidden, cell = before.chunk(2, 1)
        take, forget, show, written = (new + hidden @ weight.T).chunk(4, -1)
        cell = gate(forget) * cell + gate(take) * candidate(written)
        return torch.cat([gate(show) * apply(cell), cell], 1)

    steps = _along(projected, state, step, back=back)
    hidden, cell = _last(steps, back=back).chunk(2, 1)
    return steps.chunk(2, -1)[0], hidden, cell
