"""Kernels of recurrences in a form that exporters carry: any number of new tokens, after any state.

transformers calls a recurrence through a function that other packages may replace by a kernel of theirs
(`use_kernel_func_from_hub_with_fallback`). Its own forms of these are Python loops over as many tokens as there are,
which a trace unrolls, work of a fixed number of tokens for one, or begin without a state. So what is exported calls
these: loops in TorchScript, which become loops of the graph.
"""

# ruff: noqa: N803 - the arguments have the kernels' own names

from __future__ import annotations

import inspect
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch.nn.functional import silu, softplus

from optimum_core.errors import ExportError

Tensor = torch.Tensor
#: Returns the states that a layer goes on from, one at a call: for kernels that are not handed their state.
NextState = Callable[[], Tensor]
#: Arguments that choose between forms of one recurrence, or that models hand through and no kernel reads.
_HARMLESS = frozenset({
    "chunk_size", "use_associative_scan", "use_mambapy", "output_attentions", "output_hidden_states",
    "output_router_logits", "position_embeddings", "position_ids", "return_dict", "use_cache",
})  # fmt: skip


@contextmanager
def exportable_kernels(module: Any, next_state: NextState) -> Iterator[None]:
    """Let a model's recurrences run in exportable form while the block runs; other models of its class do not."""
    changed = []
    try:
        for layer in module.modules():
            forward = _with_kernels(layer, next_state)
            if forward is not None:
                layer.forward = forward
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _with_kernels(layer: Any, next_state: NextState) -> Any:
    """Return a layer's `forward` with its kernels replaced; None: it calls none that is known here."""
    function = inspect.unwrap(type(layer).forward)
    if "forward" in vars(layer) or not isinstance(function, types.FunctionType):
        return None
    known = _kernels_of(type(layer).__module__)
    called = {name: kernel for name, kernel in known.items() if name in function.__code__.co_names}
    if not called:
        return None
    made = {name: partial(_KERNELS[kernel], next_state) for name, kernel in called.items()}
    names = {**function.__globals__, **made}
    own = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    own.__kwdefaults__ = function.__kwdefaults__
    return types.MethodType(own, layer)


@cache
def _kernels_of(module: str) -> dict[str, str]:
    """Return the kernels among a Python module's names: by name there, the name by which other packages know it."""
    found: dict[str, str] = {}
    names = getattr(sys.modules.get(module), "__dict__", {})
    for name, value in list(names.items()):
        if isinstance(value, types.FunctionType) and hasattr(value, "__wrapped__"):
            kernel = inspect.getclosurevars(value).nonlocals.get("func_name")
            if isinstance(kernel, str) and kernel in _KERNELS:
                found[name] = kernel
    return found


def _refuse(kernel: str, further: Mapping[str, Any]) -> None:
    """Refuse arguments that may change what a kernel computes.

    Raises:
        ExportError: one of them is passed, as a newer transformers may do.
    """
    for name, value in further.items():
        if value is not None and value is not False and name not in _HARMLESS:
            why = f"its code passes {name!r} to {kernel}, whose exportable form does not know it"
            raise ExportError(
                "export of a recurrence", why, "use target='torch', or an earlier version of transformers"
            )


def _selective_scan(
    next_state: NextState,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **further: Any,
) -> Any:
    """Mamba: a state for each channel, which decays by numbers of its own. Channels are [batch, channels, tokens]."""
    _refuse("selective_scan_fn", further)
    dt = dt if delta_bias is None else dt + delta_bias[..., None]
    dt = softplus(dt) if delta_softplus else dt
    steps = dt.permute(2, 0, 1)
    decay = torch.exp(steps[..., None] * A)
    added = (steps * hidden_states.permute(2, 0, 1))[..., None] * B.permute(2, 0, 1)[:, :, None]
    out, state = _scripted().scan(decay, added, C.permute(2, 0, 1), next_state())
    out = out.permute(1, 2, 0)
    out = out if D is None else out + hidden_states * D[None, :, None]
    out = out if z is None else out * silu(z)
    return (out, state) if return_last_state else out


def _chunk_scan(
    _: NextState,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int = 0,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **further: Any,
) -> Any:
    """Mamba 2: a state for each head, which decays by one number. Heads are [batch, tokens, heads, size]."""
    _refuse("mamba_chunk_scan_combined", further)
    dt = dt if dt_bias is None else dt + dt_bias
    dt = softplus(dt) if dt_softplus else dt
    dt = torch.clamp(dt, min=dt_limit[0], max=dt_limit[1]) if tuple(dt_limit) != (0.0, float("inf")) else dt
    repeats = hidden_states.shape[2] // B.shape[2]
    added, read = (_by_head(tensor, int(repeats)) for tensor in (B, C))
    assert initial_states is not None
    values = (hidden_states * dt[..., None]).permute(0, 2, 1, 3)
    out, state = _scripted().chunks(values, (A * dt).permute(0, 2, 1), added, read, initial_states)
    out = out.permute(0, 2, 1, 3).contiguous()
    out = out if D is None else out + hidden_states * D[..., None]
    return (out, state) if return_final_states else out


def _by_head(tensor: Tensor, repeats: int) -> Tensor:
    """Return [batch, tokens, groups, size] as [batch, heads, tokens, size]."""
    return tensor.repeat_interleave(repeats, dim=2).permute(0, 2, 1, 3)


def _delta_rule(
    _: NextState,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **further: Any,
) -> tuple[Tensor, Tensor | None]:
    """The gated delta rule: a state for each head, corrected by what it gets wrong. Heads are [batch, tokens, heads,
    size]; it decays by one number for each head, or by one for each of the key's."""
    _refuse("chunk_gated_delta_rule", further)
    repeats = int(value.shape[2] // key.shape[2])
    if repeats != 1:
        query, key = (tensor.repeat_interleave(repeats, dim=2) for tensor in (query, key))
    if use_qk_l2norm_in_kernel:
        query, key = (tensor * torch.rsqrt((tensor * tensor).sum(-1, keepdim=True) + 1e-6) for tensor in (query, key))
    query = query / (query.shape[-1] ** 0.5)
    decay = g.exp()
    decay = decay[..., None] if decay.ndim == beta.ndim else decay
    assert initial_state is not None
    tensors = [tensor.transpose(0, 1) for tensor in (query, key, value, decay, beta[..., None])]
    out, state = _scripted().delta(*tensors, initial_state)
    return out.transpose(0, 1).contiguous(), state if output_final_state else None


#: By the name under which other packages bring a kernel.
_KERNELS: Mapping[str, Callable[..., Any]] = {
    "selective_scan_fn": _selective_scan,
    "mamba_chunk_scan_combined": _chunk_scan,
    "chunk_gated_delta_rule": _delta_rule,
    "chunk_kda": _delta_rule,
}


# Loops, in TorchScript. What they put together grows within a block of tokens only: a copy of all for every token
# would take time by the square of their number.


def _scan_block(decay: Tensor, added: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    out = added[:0, :, :, 0]
    for index in range(decay.shape[0]):
        state = decay[index] * state + added[index]
        out = torch.cat([out, torch.matmul(state, read[index].unsqueeze(-1)).squeeze(-1).unsqueeze(0)], dim=0)
    return out, state


def _scan(decay: Tensor, added: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    out = added[:0, :, :, 0]
    for block in range((decay.shape[0] + 63) // 64):
        start, end = 64 * block, 64 * block + 64
        made, state = _scan_block(decay[start:end], added[start:end], read[start:end], state)
        out = torch.cat([out, made], dim=0)
    return out, state


def _chunks(values: Tensor, decay: Tensor, added: Tensor, read: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    out = values[:, :, :0]
    for block in range((values.shape[2] + 63) // 64):
        start, end = 64 * block, 64 * block + 64
        value, key, query = values[:, :, start:end], added[:, :, start:end], read[:, :, start:end]
        total = torch.cumsum(decay[:, :, start:end], dim=-1)
        between = total.unsqueeze(-1) - total.unsqueeze(-2)
        places = torch.arange(value.shape[2])
        later = places.unsqueeze(0) > places.unsqueeze(1)
        scores = torch.matmul(query, key.transpose(-1, -2)) * torch.exp(between.masked_fill(later, -1e30))
        before = torch.matmul(query * torch.exp(total).unsqueeze(-1), state.transpose(-1, -2))
        out = torch.cat([out, torch.matmul(scores, value) + before], dim=2)
        whole = total[:, :, -1:]
        left = value * torch.exp(whole - total).unsqueeze(-1)
        state = state * torch.exp(whole).unsqueeze(-1) + torch.matmul(left.transpose(-1, -2), key)
    return out, state


def _delta_block(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    out = value[:0]
    for index in range(value.shape[0]):
        state = state * decay[index].unsqueeze(-1)
        known = torch.matmul(key[index].unsqueeze(-2), state).squeeze(-2)
        missing = (value[index] - known) * rate[index]
        state = state + key[index].unsqueeze(-1) * missing.unsqueeze(-2)
        out = torch.cat([out, torch.matmul(query[index].unsqueeze(-2), state).squeeze(-2).unsqueeze(0)], dim=0)
    return out, state


def _delta(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, rate: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    out = value[:0]
    for block in range((value.shape[0] + 63) // 64):
        start, end = 64 * block, 64 * block + 64
        made, state = _delta_block(
            query[start:end], key[start:end], value[start:end], decay[start:end], rate[start:end], state
        )
        out = torch.cat([out, made], dim=0)
    return out, state


@cache
def _scripted() -> types.SimpleNamespace:
    """Return the loops in TorchScript, compiled at the first use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return types.SimpleNamespace(
            scan=torch.jit.script(_scan), chunks=torch.jit.script(_chunks), delta=torch.jit.script(_delta)
        )
