"""A 1-D convolution whose weight gradient, for each item of a batch by itself, is one product of matrices.

PyTorch takes such gradients by a convolution with as many groups as items, which on short signals is several times
slower. The function is the same, and so are its gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Convolution(torch.autograd.Function):
    """``F.conv1d`` without bias and groups."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        return torch.conv1d(x, weight, None, stride, padding, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, *ctx.geometry = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        (x, weight), (stride, padding, dilation), (g,) = ctx.saved_tensors, ctx.geometry, gradients
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x, _, _ = torch.ops.aten.convolution_backward(
                g, x, weight, None, [stride], [padding], [dilation], False, [0], 1, [True, False, False]
            )
        return to_x, _weight_gradient(x, g, weight.shape[-1], stride, padding, dilation), None, None, None


class QuickConvolutions(TorchFunctionMode):
    """Inside this context 1-D convolutions of one group with whole-number geometry are taken as above."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace ``conv1d``; everything else is left as it is."""
        if func is torch.conv1d and not kwargs and len(args) == 7:
            x, weight, bias, stride, padding, dilation, groups = args
            if groups == 1 and weight.requires_grad and x.dim() == 3 and not isinstance(padding, str):
                y = _Convolution.apply(x, weight, _one(stride), _one(padding), _one(dilation))
                return y if bias is None else y + bias[:, None]
        return func(*args, **(kwargs or {}))


def _one(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _weight_gradient(x: Tensor, g: Tensor, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Multiply what each tap of the kernel saw by the gradient of what it gave: ``(out, in, kernel)``."""
    x = F.pad(x, (padding, padding))
    if dilation == 1:
        seen = x.unfold(-1, kernel, stride)  # (b, in, outputs, kernel), a view
    else:
        first = torch.arange(g.shape[-1], device=x.device)[:, None] * stride
        seen = x[..., first + dilation * torch.arange(kernel, device=x.device)]
    return torch.einsum("bot,bitk->oik", g, seen)
