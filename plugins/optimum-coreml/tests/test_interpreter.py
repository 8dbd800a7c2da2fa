"""Every operator of the interpreter against torch, in programs that coremltools itself writes and saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder
from torch.nn import functional as F

from optimum_core.errors import SessionError
from optimum_coreml.interpreter import Program, compressed
from optimum_coreml.interpreter.registry import OPERATORS, UndefinedError
from optimum_coreml.storage import read_program, save, weights_file
from optimum_coreml.tools import quiet

Tensor = torch.Tensor
mb: Any = Builder


def program(build: Callable[..., Any], shapes: list[tuple[int, ...]], folder: Path, kind: str, target: str) -> Program:
    with quiet() as ct:
        from coremltools.converters.mil.mil import types

        dtype = {"fp32": types.fp32, "fp16": types.fp16, "int32": types.int32}[kind]
        specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]

        def body(*arguments: Any) -> Any:
            return build(*arguments)

        names = ", ".join(f"x{index}" for index in range(len(shapes)))
        scope: dict[str, Any] = {"body": body}
        exec(f"def function({names}):\n    return body({names})", scope)
        made = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(scope["function"])
        written = ct.convert(
            made,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        save(written, folder, {})
    package = folder / "model.mlpackage"
    return Program(read_program(package, "test"), weights_file(package), "test")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W = drawn(6, 4, seed=1)
K2, K1 = drawn(6, 2, 3, 2, seed=2), drawn(4, 4, 3, seed=3)
T2 = drawn(4, 3, 3, 2, seed=4)
B6 = drawn(6, seed=5)
G = (drawn(4, seed=6), drawn(4, seed=7), drawn(4, seed=8), drawn(4, seed=9).abs() + 0.1)
PICTURE = drawn(2, 4, 7, 6, seed=10)
ROWS = drawn(3, 5, 4, seed=11)
N = [item.numpy() for item in G]


def _same(x: Tensor, kernel: int, step: int) -> tuple[int, int]:
    total = max(0, (-(-x.shape[-1] // step) - 1) * step + kernel - x.shape[-1])
    return total // 2, total - total // 2


def _ceil(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True, count_include_pad=False)


#: name: (what is built, what torch computes, inputs); the operator is the name up to the first comma.
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[Tensor]]] = {
    "add": (lambda x, y: mb.add(x=x, y=y), lambda x, y: x + y, [ROWS, drawn(5, 1)]),
    "sub": (lambda x, y: mb.sub(x=x, y=y), lambda x, y: x - y, [ROWS, drawn(4)]),
    "mul": (lambda x, y: mb.mul(x=x, y=y), lambda x, y: x * y, [ROWS, drawn(3, 1, 1)]),
    "real_div": (lambda x, y: mb.real_div(x=x, y=y), lambda x, y: x / y, [ROWS, ROWS + 3]),
    "floor_div": (lambda x, y: mb.floor_div(x=x, y=y), lambda x, y: torch.floor(x / y), [ROWS, drawn(4)]),
    "mod": (lambda x, y: mb.mod(x=x, y=y), torch.remainder, [ROWS, drawn(4)]),
    "pow": (lambda x, y: mb.pow(x=x, y=y), torch.pow, [ROWS.abs(), drawn(4)]),
    "maximum": (lambda x, y: mb.maximum(x=x, y=y), torch.maximum, [ROWS, drawn(4)]),
    "minimum": (lambda x, y: mb.minimum(x=x, y=y), torch.minimum, [ROWS, drawn(4)]),
    "linear": (
        lambda x: mb.linear(x=x, weight=W.numpy(), bias=B6.numpy()),
        lambda x: F.linear(x, W, B6),
        [ROWS],
    ),
    "matmul": (lambda x, y: mb.matmul(x=x, y=y), torch.matmul, [ROWS, drawn(4, 6)]),
    "matmul, transposed": (
        lambda x, y: mb.matmul(x=x, y=y, transpose_x=True, transpose_y=True),
        lambda x, y: x.mT @ y.mT,
        [ROWS, drawn(3, 2, 5)],
    ),
    "einsum": (
        lambda x, y: mb.einsum(values=(x, y), equation="nchw,nwhu->nchu"),
        lambda x, y: torch.einsum("nchw,nwhu->nchu", x, y),
        [drawn(2, 3, 4, 5), drawn(2, 5, 4, 6)],
    ),
    "scaled_dot_product_attention": (
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
        [drawn(2, 3, 4, 8), drawn(2, 3, 5, 8), drawn(2, 3, 5, 6), drawn(2, 1, 4, 5)],
    ),
    "scaled_dot_product_attention, of flags": (
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=mb.greater(x=m, y=-0.5)),
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m > -0.5),
        [drawn(2, 3, 4, 8), drawn(2, 3, 5, 8), drawn(2, 3, 5, 6), drawn(2, 1, 4, 5)],
    ),
    "conv, custom": (
        lambda x: mb.conv(
            x=x,
            weight=K2.numpy(),
            bias=B6.numpy(),
            strides=[2, 1],
            pad_type="custom",
            pad=[1, 0, 2, 1],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: F.conv2d(F.pad(x, (2, 1, 1, 0)), K2, B6, (2, 1), 0, (1, 2), 2),
        [PICTURE],
    ),
    "conv, valid": (
        lambda x: mb.conv(x=x, weight=K1.numpy(), pad_type="valid", strides=[2]),
        lambda x: F.conv1d(x, K1, None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv, same": (
        lambda x: mb.conv(x=x, weight=drawn(4, 4, 4, seed=3).numpy(), pad_type="same", strides=[2]),
        lambda x: F.conv1d(F.pad(x, _same(x, 4, 2)), drawn(4, 4, 4, seed=3), None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv, same_lower": (
        lambda x: mb.conv(x=x, weight=drawn(4, 4, 4, seed=3).numpy(), pad_type="same_lower", strides=[2]),
        lambda x: F.conv1d(F.pad(x, _same(x, 4, 2)[::-1]), drawn(4, 4, 4, seed=3), None, 2),
        [drawn(2, 4, 9)],
    ),
    "conv_transpose": (
        lambda x: mb.conv_transpose(
            x=x,
            weight=T2.numpy(),
            bias=B6.numpy(),
            strides=[2, 3],
            pad_type="custom",
            pad=[1, 1, 0, 0],
            dilations=[1, 2],
            groups=2,
        ),
        lambda x: F.conv_transpose2d(x, T2, B6, (2, 3), (1, 0), 0, 2, (1, 2)),
        [PICTURE],
    ),
    "conv_transpose, more than there is": (
        lambda x: mb.conv_transpose(
            x=x, weight=drawn(4, 3, 2, seed=3).numpy(), bias=drawn(3).numpy(), strides=[3], output_shape=[2, 3, 18]
        ),
        lambda x: F.conv_transpose1d(x, drawn(4, 3, 2, seed=3), drawn(3), 3, 0, 1),
        [drawn(2, 4, 6)],
    ),
    "layer_norm": (
        lambda x: mb.layer_norm(x=x, axes=[-1], gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.layer_norm(x, (4,), G[0], G[1], 1e-3),
        [ROWS],
    ),
    "layer_norm, inner axes": (
        lambda x: mb.layer_norm(x=x, axes=[1], epsilon=1e-3, gamma=N[0]),
        lambda x: F.layer_norm(x.movedim(1, -1), (4,), G[0], None, 1e-3).movedim(-1, 1),
        [PICTURE],
    ),
    "batch_norm": (
        lambda x: mb.batch_norm(x=x, mean=N[2], variance=N[3], gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.batch_norm(x, G[2], G[3], G[0], G[1], eps=1e-3),
        [PICTURE],
    ),
    "instance_norm": (
        lambda x: mb.instance_norm(x=x, gamma=N[0], beta=N[1], epsilon=1e-3),
        lambda x: F.instance_norm(x, weight=G[0], bias=G[1], eps=1e-3),
        [PICTURE],
    ),
    "l2_norm": (
        lambda x: mb.l2_norm(x=x, epsilon=1e-3),
        lambda x: x / torch.sqrt((x * x).sum((1, 2, 3), keepdim=True) + 1e-3),
        [PICTURE],
    ),
    "softmax": (lambda x: mb.softmax(x=x, axis=-2), lambda x: x.softmax(-2), [ROWS]),
    "max_pool, same": (
        lambda x: mb.max_pool(x=x, kernel_sizes=[4], strides=[2], pad_type="same"),
        lambda x: F.max_pool1d(F.pad(x, _same(x, 4, 2), value=-9e9), 4, 2),
        [drawn(2, 4, 9) - 5],
    ),
    "max_pool, rounded up": (
        lambda x: mb.max_pool(
            x=x, kernel_sizes=[3, 2], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True
        ),
        lambda x: F.max_pool2d(x, (3, 2), (2, 2), (1, 1), ceil_mode=True),
        [PICTURE - 5],
    ),
    "avg_pool": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1]),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 1), (1, 1)),
        [PICTURE],
    ),
    "avg_pool, rounded up": (
        lambda x: mb.avg_pool(
            x=x,
            kernel_sizes=[3, 2],
            strides=[2, 2],
            pad_type="custom",
            pad=[1, 1, 1, 1],
            ceil_mode=True,
            exclude_padding_from_average=True,
        ),
        _ceil,
        [PICTURE],
    ),
    "avg_pool, rounded up with padding": (
        lambda x: mb.avg_pool(x=x, kernel_sizes=[3], strides=[2], pad_type="custom", pad=[1, 1], ceil_mode=True),
        lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True),
        [drawn(2, 4, 8)],
    ),
    "l2_pool": (
        lambda x: mb.l2_pool(x=x, kernel_sizes=[3, 2], strides=[2, 1], pad_type="valid"),
        lambda x: F.lp_pool2d(x, 2.0, (3, 2), (2, 1))[..., :5],
        [PICTURE],
    ),
    "upsample_nearest_neighbor": (
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=3),
        lambda x: F.interpolate(x, scale_factor=(2, 3)),
        [PICTURE],
    ),
    "resize_nearest_neighbor": (
        lambda x: mb.resize_nearest_neighbor(x=x, target_size_height=5, target_size_width=9),
        lambda x: F.interpolate(x, size=(5, 9)),
        [PICTURE],
    ),
    "upsample_bilinear": (
        lambda x: mb.upsample_bilinear(x=x, scale_factor_height=2, scale_factor_width=3, align_corners=False),
        lambda x: F.interpolate(x, scale_factor=(2, 3), mode="bilinear"),
        [PICTURE],
    ),
    "resize_bilinear": (
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=5, target_size_width=9, sampling_mode="STRICT_ALIGN_CORNERS"
        ),
        lambda x: F.interpolate(x, size=(5, 9), mode="bilinear", align_corners=True),
        [PICTURE],
    ),
    "resize_bilinear, unaligned": (
        lambda x: mb.resize_bilinear(x=x, target_size_height=5, target_size_width=9, sampling_mode="UNALIGN_CORNERS"),
        lambda x: F.interpolate(x, size=(5, 9), mode="bilinear"),
        [PICTURE],
    ),
    "pixel_shuffle": (
        lambda x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
        [PICTURE],
    ),
    "pad": (
        lambda x: mb.pad(x=x, pad=[1, 2, 0, 3], mode="constant", constant_val=7.0),
        lambda x: F.pad(x, (0, 3, 1, 2), value=7.0),
        [ROWS],
    ),
    "pad, reflect": (
        lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="reflect"),
        lambda x: F.pad(x, (1, 3, 2, 1), mode="reflect"),
        [PICTURE],
    ),
    "pad, replicate": (
        lambda x: mb.pad(x=x, pad=[2, 1, 1, 3], mode="replicate"),
        lambda x: F.pad(x, (1, 3, 2, 1), mode="replicate"),
        [PICTURE],
    ),
    "slice_by_index": (
        lambda x: mb.slice_by_index(x=x, begin=[0, 4, -3], end=[2, 0, 9], stride=[1, -2, 1]),
        lambda x: x[0:2].flip(1)[:, 0:4:2][..., -3:],
        [ROWS],
    ),
    "slice_by_index, masked": (
        lambda x: mb.slice_by_index(
            x=x,
            begin=[2, 1, -1],
            end=[2, 1, 0],
            begin_mask=[True, False, False],
            end_mask=[False, True, False],
            squeeze_mask=[False, False, True],
        ),
        lambda x: x[:2, 1:, -1],
        [ROWS],
    ),
    "slice_by_size": (
        lambda x: mb.slice_by_size(x=x, begin=[1, 0, 1], size=[-1, 2, 3]),
        lambda x: x[1:, :2, 1:4],
        [ROWS],
    ),
    "slice_update": (
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1, 0], end=[3, 4, 4], stride=[1, 2, 1]),
        lambda x, u: torch.stack([x[:, 0], u[:, 0], x[:, 2], u[:, 1], x[:, 4]], 1),
        [ROWS, drawn(3, 2, 4, seed=20)],
    ),
    "reshape": (lambda x: mb.reshape(x=x, shape=[0, -1, 2]), lambda x: x.reshape(3, -1, 2), [ROWS]),
    "transpose": (lambda x: mb.transpose(x=x, perm=[-1, 0, 1]), lambda x: x.permute(2, 0, 1), [ROWS]),
    "expand_dims": (lambda x: mb.expand_dims(x=x, axes=[-1, 1]), lambda x: x[:, None, ..., None], [ROWS]),
    "squeeze": (lambda x: mb.squeeze(x=x, axes=[-3]), lambda x: x.squeeze(1), [drawn(2, 1, 1, 3)]),
    "concat": (lambda x, y: mb.concat(values=[x, y], axis=-2), lambda x, y: torch.cat([x, y], 1), [ROWS, ROWS * 2]),
    "concat, interleaved": (
        lambda x, y: mb.concat(values=[x, y], axis=1, interleave=True),
        lambda x, y: torch.stack([x, y], 2).flatten(1, 2),
        [ROWS, ROWS * 2],
    ),
    "stack": (lambda x, y: mb.stack(values=[x, y], axis=-1), lambda x, y: torch.stack([x, y], -1), [ROWS, ROWS * 2]),
    "split": (
        lambda x: mb.split(x=x, split_sizes=[2, 3], axis=-2)[1],
        lambda x: x[:, 2:],
        [ROWS],
    ),
    "split, equally": (lambda x: mb.split(x=x, num_splits=2, axis=2)[0], lambda x: x[..., :2], [ROWS]),
    "tile": (lambda x: mb.tile(x=x, reps=[1, 2, 3]), lambda x: x.repeat(1, 2, 3), [ROWS]),
    "reverse": (lambda x: mb.reverse(x=x, axes=[-1, 0]), lambda x: x.flip(0, 2), [ROWS]),
    "flatten2d": (lambda x: mb.flatten2d(x=x, axis=-1), lambda x: x.reshape(15, 4), [ROWS]),
    "band_part": (
        lambda x: mb.band_part(x=x, lower=1, upper=-1),
        lambda x: torch.triu(x, -1),
        [ROWS],
    ),
    "band_part, upper": (lambda x: mb.band_part(x=x, lower=-1, upper=0), torch.tril, [ROWS]),
    "fill": (
        lambda x: mb.add(x=x, y=mb.fill(shape=mb.shape(x=x), value=2.5)),
        lambda x: x + 2.5,
        [ROWS],
    ),
    "fill_like": (lambda x: mb.fill_like(ref_tensor=x, value=2.5), lambda x: torch.full_like(x, 2.5), [ROWS]),
    "range_1d": (
        lambda x: mb.add(x=x, y=mb.range_1d(end=4.0, start=0.0, step=1.0)),
        lambda x: x + torch.arange(4.0),
        [ROWS],
    ),
    "one_hot": (
        lambda x: mb.add(
            x=x, y=mb.one_hot(indices=[1, 0, 3, 1, 2], one_hot_vector_size=4, on_value=2.0, off_value=0.0)
        ),
        lambda x: x + 2.0 * F.one_hot(torch.tensor([1, 0, 3, 1, 2]), 4),
        [ROWS],
    ),
    "gather": (
        lambda x: mb.gather(x=x, indices=np.array([[3, 0], [1, 1]], np.int32), axis=-1),
        lambda x: x[..., torch.tensor([[3, 0], [1, 1]])],
        [ROWS],
    ),
    "gather, by batch": (
        lambda x: mb.gather(x=x, indices=np.array([[4, 0], [1, 1], [2, 3]], np.int32), axis=1, batch_dims=1),
        lambda x: torch.stack(
            [row[where] for row, where in zip(x, torch.tensor([[4, 0], [1, 1], [2, 3]]), strict=True)]
        ),
        [ROWS],
    ),
    "gather_along_axis": (
        lambda x: mb.gather_along_axis(x=x, indices=np.full((3, 2, 4), 3, np.int32), axis=1),
        lambda x: x[:, [3, 3]],
        [ROWS],
    ),
    "gather_nd": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[2, 1], [0, 4]], np.int32)),
        lambda x: torch.stack([x[2, 1], x[0, 4]]),
        [ROWS],
    ),
    "gather_nd, by batch": (
        lambda x: mb.gather_nd(x=x, indices=np.array([[1], [4], [0]], np.int32), batch_dims=1),
        lambda x: torch.stack([x[0, 1], x[1, 4], x[2, 0]]),
        [ROWS],
    ),
    "scatter": (
        lambda x, u: mb.scatter(data=x, indices=np.array([4, 0], np.int32), updates=u, axis=1, mode="update"),
        lambda x, u: x.index_copy(1, torch.tensor([4, 0]), u),
        [ROWS, drawn(3, 2, 4, seed=30)],
    ),
    "scatter_along_axis": (
        lambda x, u: mb.scatter_along_axis(data=x, indices=np.full((3, 2, 4), 2, np.int32), updates=u, axis=1),
        lambda x, u: x.scatter_add(1, torch.full((3, 2, 4), 2), u),
        [ROWS, drawn(3, 2, 4, seed=30)],
    ),
    "scatter_nd": (
        lambda x, u: mb.scatter_nd(data=x, indices=np.array([[2, 1], [0, 4], [2, 1]], np.int32), updates=u, mode="max"),
        lambda x, u: torch.stack(
            [
                torch.stack(
                    [
                        torch.maximum(x[i, j], torch.maximum(u[0], u[2]))
                        if (i, j) == (2, 1)
                        else torch.maximum(x[i, j], u[1])
                        if (i, j) == (0, 4)
                        else x[i, j]
                        for j in range(5)
                    ]
                )
                for i in range(3)
            ]
        ),
        [ROWS, drawn(3, 4, seed=31)],
    ),
    "topk": (
        lambda x: mb.topk(x=x, k=2, axis=1, ascending=True)[0],
        lambda x: x.topk(2, 1, largest=False).values,
        [ROWS],
    ),
    "cumsum": (lambda x: mb.cumsum(x=x, axis=1), lambda x: x.cumsum(1), [ROWS]),
    "cumsum, exclusive and reversed": (
        lambda x: mb.cumsum(x=x, axis=-1, exclusive=True, reverse=True),
        lambda x: x.flip(-1).cumsum(-1).flip(-1) - x,
        [ROWS],
    ),
    "reduce_max": (lambda x: mb.reduce_max(x=x, axes=[-1], keep_dims=True), lambda x: x.amax(-1, True), [ROWS]),
    "reduce_min": (lambda x: mb.reduce_min(x=x, axes=[0, 2]), lambda x: x.amin((0, 2)), [ROWS]),
    "reduce_sum": (lambda x: mb.reduce_sum(x=x, axes=[1]), lambda x: x.sum(1), [ROWS]),
    "reduce_mean": (
        lambda x: mb.reduce_mean(x=x, axes=[-1, 0], keep_dims=True),
        lambda x: x.mean((0, 2), True),
        [ROWS],
    ),
    "reduce_prod": (lambda x: mb.reduce_prod(x=x, axes=[1, 2]), lambda x: x.prod(2).prod(1), [ROWS]),
    "reduce_sum_square": (lambda x: mb.reduce_sum_square(x=x, axes=[1]), lambda x: (x * x).sum(1), [ROWS]),
    "reduce_l1_norm": (lambda x: mb.reduce_l1_norm(x=x, axes=[1]), lambda x: x.abs().sum(1), [ROWS]),
    "reduce_l2_norm": (lambda x: mb.reduce_l2_norm(x=x, axes=[1]), lambda x: x.norm(dim=1), [ROWS]),
    "reduce_log_sum": (lambda x: mb.reduce_log_sum(x=x, axes=[1]), lambda x: x.sum(1).log(), [ROWS.abs()]),
    "reduce_log_sum_exp": (lambda x: mb.reduce_log_sum_exp(x=x, axes=[1]), lambda x: x.logsumexp(1), [ROWS]),
    "select": (
        lambda x, y: mb.select(cond=mb.less(x=x, y=0.0), a=x, b=y),
        lambda x, y: torch.where(x < 0, x, y),
        [ROWS, ROWS * 3],
    ),
    "clip": (lambda x: mb.clip(x=x, alpha=-0.5, beta=0.3), lambda x: x.clamp(-0.5, 0.3), [ROWS]),
    "threshold": (lambda x: mb.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2), [ROWS]),
    "elu": (lambda x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7), [ROWS]),
    "gelu": (lambda x: mb.gelu(x=x, mode="EXACT"), F.gelu, [ROWS]),
    "gelu, by tanh": (
        lambda x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: F.gelu(x, approximate="tanh"),
        [ROWS],
    ),
    "gelu, by sigmoid": (
        lambda x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * (1.702 * x).sigmoid(),
        [ROWS],
    ),
    "leaky_relu": (lambda x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1), [ROWS]),
    "linear_activation": (lambda x: mb.linear_activation(x=x, alpha=2.0, beta=1.0), lambda x: 2 * x + 1, [ROWS]),
    "prelu": (lambda x: mb.prelu(x=x, alpha=N[0]), lambda x: F.prelu(x, G[0]), [PICTURE]),
    "scaled_tanh": (lambda x: mb.scaled_tanh(x=x, alpha=2.0, beta=0.5), lambda x: 2 * (x / 2).tanh(), [ROWS]),
    "sigmoid_hard": (
        lambda x: mb.sigmoid_hard(x=x, alpha=0.3, beta=0.4),
        lambda x: (0.3 * x + 0.4).clamp(0, 1),
        [ROWS],
    ),
    "inverse": (lambda x: mb.inverse(x=x, epsilon=0.1), lambda x: 1 / (x + 0.1), [ROWS.abs()]),
    "log": (lambda x: mb.log(x=x, epsilon=0.1), lambda x: (x + 0.1).log(), [ROWS.abs()]),
    "rsqrt": (lambda x: mb.rsqrt(x=x, epsilon=0.1), lambda x: (x + 0.1).rsqrt(), [ROWS.abs()]),
    "cast": (
        lambda x: mb.cast(x=mb.cast(x=x, dtype="int32"), dtype="fp32"),
        lambda x: x.trunc(),
        [ROWS * 5],
    ),
    "quantize, and dequantize": (
        lambda x: mb.dequantize(
            input=mb.quantize(input=x, scale=np.float32(0.1), zero_point=np.int8(3), output_dtype="int8"),
            scale=np.float32(0.1),
            zero_point=np.int8(3),
        ),
        lambda x: ((x / 0.1).round() + 3).clamp(-128, 127).sub(3) * 0.1,
        [ROWS * 8],
    ),
}
_PLAIN: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "abs": (torch.abs, ROWS),
    "acos": (torch.acos, ROWS.tanh()),
    "asin": (torch.asin, ROWS.tanh()),
    "atan": (torch.atan, ROWS),
    "atanh": (torch.atanh, ROWS.tanh() * 0.9),
    "ceil": (torch.ceil, ROWS),
    "cos": (torch.cos, ROWS),
    "cosh": (torch.cosh, ROWS),
    "erf": (torch.erf, ROWS),
    "exp": (torch.exp, ROWS),
    "exp2": (torch.exp2, ROWS),
    "floor": (torch.floor, ROWS),
    "identity": (lambda x: x, ROWS),
    "relu": (torch.relu, ROWS),
    "relu6": (F.relu6, ROWS * 6),
    "round": (torch.round, torch.tensor([[0.5, 1.5, -0.5, 2.4]])),
    "sigmoid": (torch.sigmoid, ROWS),
    "sign": (torch.sign, ROWS),
    "silu": (F.silu, ROWS),
    "sin": (torch.sin, ROWS),
    "sinh": (torch.sinh, ROWS),
    "softplus": (F.softplus, ROWS * 30),
    "softsign": (F.softsign, ROWS),
    "sqrt": (torch.sqrt, ROWS.abs()),
    "square": (torch.square, ROWS),
    "tan": (torch.tan, ROWS),
    "tanh": (torch.tanh, ROWS),
}
for _name, (_function, _input) in _PLAIN.items():
    CASES[_name] = ((lambda name: lambda x: getattr(mb, name)(x=x))(_name), _function, [_input])

#: Of these the result is no float: compared after a cast.
_WORDS = {
    "equal": torch.eq, "not_equal": torch.ne, "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt,
    "less_equal": torch.le,
}  # fmt: skip
for _name, _compare in _WORDS.items():
    CASES[_name] = (
        (lambda name: lambda x, y: mb.cast(x=getattr(mb, name)(x=x, y=y), dtype="fp32"))(_name),
        (lambda compare: lambda x, y: compare(x, y).float())(_compare),
        [ROWS.round(), ROWS.round().flip(1)],
    )
for _name, _combine in {
    "logical_and": torch.logical_and,
    "logical_or": torch.logical_or,
    "logical_xor": torch.logical_xor,
}.items():
    CASES[_name] = (
        (
            lambda name: (
                lambda x, y: mb.cast(x=getattr(mb, name)(x=mb.less(x=x, y=0.0), y=mb.less(x=y, y=0.0)), dtype="fp32")
            )
        )(_name),
        (lambda combine: lambda x, y: combine(x < 0, y < 0).float())(_combine),
        [ROWS, ROWS.flip(1)],
    )
CASES["logical_not"] = (
    lambda x: mb.cast(x=mb.logical_not(x=mb.less(x=x, y=0.0)), dtype="fp32"),
    lambda x: (x >= 0).float(),
    [ROWS],
)
_PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "reduce_argmax": lambda x: x.argmax(1, True),
    "reduce_argmin": lambda x: x.argmin(1, True),
}
for _name, _found in _PLACES.items():
    CASES[_name] = (
        (lambda name: lambda x: mb.cast(x=getattr(mb, name)(x=x, axis=1, keep_dims=True), dtype="fp32"))(_name),
        (lambda found: lambda x: found(x).float())(_found),
        [ROWS],
    )
CASES["argsort"] = (
    lambda x: mb.cast(x=mb.argsort(x=x, axis=1, ascending=True), dtype="fp32"),
    lambda x: x.argsort(1).float(),
    [ROWS],
)
CASES["non_zero"] = (
    lambda x: mb.cast(x=mb.non_zero(x=mb.relu(x=x)), dtype="fp32"),
    lambda x: x.relu().nonzero().float(),
    [ROWS],
)
CASES["shape"] = (
    lambda x: mb.cast(x=mb.shape(x=x), dtype="fp32"),
    lambda x: torch.tensor(x.shape).float(),
    [ROWS],
)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_does(name: str, tmp_path: Path) -> None:
    build, reference, inputs = CASES[name]
    made = program(build, [tuple(item.shape) for item in inputs], tmp_path, "fp32", "iOS18")
    given = {f"x{index}": item for index, item in enumerate(inputs)}
    (found,) = made.run(given).values()
    torch.testing.assert_close(found, reference(*inputs), rtol=1e-4, atol=1e-5)


def test_every_operator_has_a_test() -> None:
    tested = {name.partition(",")[0] for name in CASES} | {"dequantize"}
    weights = {name for name in OPERATORS if name.startswith("constexpr_")}
    assert sorted(set(OPERATORS) - tested - weights) == []


def test_sixteen_bits_are_rounded_after_every_operator(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float16(1.0)), y=np.float16(1.0))

    made = program(build, [(3,)], tmp_path, "fp16", "iOS18")
    x = torch.tensor([1e-4, 4e-4, 1e-3], dtype=torch.float16)
    (found,) = made.run({"x0": x}).values()
    assert found.dtype == torch.float16
    assert found.tolist() == [0.0, 0.0, 0.0009765625]


def test_negative_indices_end_with_ios17(tmp_path: Path) -> None:
    def build(x: Any, i: Any) -> Any:
        return mb.gather(x=x, indices=i, axis=0)

    x, i = torch.tensor([7, 8, 9], dtype=torch.int32), torch.tensor([-1, 0], dtype=torch.int32)
    old = program(build, [(3,), (2,)], tmp_path / "old", "int32", "iOS16")
    assert next(iter(old.run({"x0": x, "x1": i}).values())).tolist() == [9, 7]
    new = program(build, [(3,), (2,)], tmp_path / "new", "int32", "iOS18")
    with pytest.raises(SessionError, match="index -1 into an axis of 3"):
        new.run({"x0": x, "x1": i})


def test_an_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="does not know local_response_norm") as caught:
        program(lambda x: mb.local_response_norm(x=x, size=3), [(1, 4, 5)], tmp_path, "fp32", "iOS18")
    assert "Mac" in caught.value.remedy


def test_what_a_program_declares_is_held_to(tmp_path: Path) -> None:
    made = program(lambda x: mb.relu(x=x), [(3,)], tmp_path, "fp32", "iOS18")
    with pytest.raises(SessionError, match=r"a shape of \(2,\) came out where the program declares \[3\]"):
        made.run({"x0": torch.ones(2)})
    with pytest.raises(SessionError, match="float16 came out where the program declares FLOAT32"):
        made.run({"x0": torch.ones(3, dtype=torch.float16)})


def changed(folder: Path, change: Callable[[Any], None]) -> Program:
    """Two tensors stacked, and a weight from the file; the saved program changed by hand."""
    weight = drawn(2, 40, 40).numpy()
    program(lambda x: mb.add(x=mb.stack(values=[x, x], axis=0), y=weight), [(40, 40)], folder, "fp32", "iOS18")
    package = folder / "model.mlpackage"
    spec = read_program(package, "test")
    change(spec.mlProgram.functions["main"].block_specializations["CoreML8"])
    return Program(spec, weights_file(package), "test")


def test_a_program_that_was_changed_is_an_error_that_names_the_operator(tmp_path: Path) -> None:
    def two(block: Any) -> None:
        (stack,) = (item for item in block.operations if item.type == "stack")
        stack.inputs["axis"].arguments.add().CopyFrom(stack.inputs["axis"].arguments[0])

    def without_entries(block: Any) -> None:
        (stack,) = (item for item in block.operations if item.type == "stack")
        stack.type = "split"
        stack.inputs["x"].CopyFrom(stack.inputs["values"])
        del stack.inputs["x"].arguments[1:], stack.inputs["values"]

    def elsewhere(block: Any) -> None:
        for item in block.operations:
            if item.type == "const" and item.attributes["val"].WhichOneof("value") == "blobFileValue":
                item.attributes["val"].blobFileValue.fileName = "@model_path/weights/other.bin"

    def nowhere(block: Any) -> None:
        block.outputs[0] = "missing"

    given = {"x0": drawn(40, 40)}
    with pytest.raises(SessionError, match=r"'stack'.*2 values for its input 'axis'"):
        changed(tmp_path / "two", two).run(given)
    with pytest.raises(SessionError, match=r"'split'.*AssertionError"):
        changed(tmp_path / "without", without_entries).run(given)
    with pytest.raises(SessionError, match=r"'const'.*a constant in @model_path/weights/other\.bin"):
        changed(tmp_path / "elsewhere", elsewhere)
    with pytest.raises(SessionError, match="the program's output 'missing'"):
        changed(tmp_path / "nowhere", nowhere)


def test_packed_weights_of_older_targets() -> None:
    """Bit by bit as the specification's examples have it."""
    indices = torch.tensor([0b01101100, 0b11], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5.0, 9.0, 13.0])
    dense = compressed._from_table(indices, lut, shape=torch.tensor([5]), opset=6)
    assert dense.tolist() == [1.0, 13.0, 9.0, 5.0, 13.0]
    mask = torch.tensor([0b01100], dtype=torch.uint8)
    sparse = compressed._from_sparse(torch.tensor([2.0, 3.0]), mask, shape=torch.tensor([5]), opset=6)
    assert sparse.tolist() == [0.0, 0.0, 2.0, 3.0, 0.0]
    with pytest.raises(UndefinedError):
        compressed._from_sparse(torch.tensor([2.0]), mask, shape=torch.tensor([5]), opset=6)


def test_tables_by_group_and_of_vectors() -> None:
    """The two cases of the specification of iOS18's `constexpr_lut_to_dense`."""
    indices = torch.tensor([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]], dtype=torch.uint8)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    dense = compressed._from_table(indices, lut, opset=8)
    assert dense.tolist() == [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    bits = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    vectors = torch.tensor([[1.0, 2, 3], [4, 5, 6]]).reshape(1, 1, 1, 2, 3)
    last = compressed._from_table(bits, vectors, vector_axis=torch.tensor(2), opset=8)
    assert last[0].tolist() == [[1, 2, 3, 1, 2, 3], [4, 5, 6, 1, 2, 3]]
    middle = compressed._from_table(bits, vectors, vector_axis=torch.tensor(1), opset=8)
    assert middle[0].tolist() == [[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]]
