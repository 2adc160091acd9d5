"""Matrix products of the networks, forward and backward, with the oneDNN that torch is built with.

Belongs here: the product and the linear layer that uses it. If torch's own product takes a slow path
(MKL on AMD), oneDNN is three times as fast; with AVX2 or AVX-512 it is about as fast. It is used whenever
it works, without a speed probe, so that equal runs give equal bits.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from emid_assets.encoders.linear_products import Size, linear_refusal, onednn_product

_TRIED: tuple[Size, ...] = ((1, 1, 1), (1, 257, 3), (7, 5, 11), (64, 96, 512))


def product(x: Tensor, y: Tensor) -> Tensor:
    """X yᵀ: (n, d) and (m, d) → (n, m)."""
    if x.dtype == torch.float32 and x.numel() and y.numel() and _onednn_multiplies_on(x.device):
        result: Tensor = _OneDnnProduct.apply(x, y)  # type: ignore[no-untyped-call]
        return result
    return x @ y.T


@cache
def _onednn_multiplies_on(device: torch.device) -> bool:
    return not linear_refusal("onednn", device, torch.float32, _TRIED)


class Linear(nn.Linear):
    """`nn.Linear` for (n, inputs) rows, computed by `product`."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, inputs) → (n, outputs)."""
        result = product(input, self.weight)
        return result if self.bias is None else result + self.bias


class _OneDnnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return _multiply(x, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, y) = gradients, ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad
        of_x = _multiply(gradient, y.T) if needs_x else None
        of_y = _multiply(gradient.T, x.T) if needs_y else None
        return of_x, of_y


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    try:
        return onednn_product(x.contiguous(), y.contiguous(), None)
    except RuntimeError:  # oneDNN refuses this size on this processor, in every run
        return x @ y.T
