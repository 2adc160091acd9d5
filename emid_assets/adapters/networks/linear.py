"""Matrix products of the networks, forward and backward, by the oneDNN that torch is built with.

Belongs here: the product and the linear layer made with it. Where torch's own product takes a slow
path (MKL on AMD) oneDNN is three times as fast, and elsewhere about as fast; it is taken always and
not by a probe, so that equal runs give equal bits.
"""

from typing import Any

import torch
from torch import Tensor, nn

from emid_assets.encoders.linear_products import onednn_product, products_here


def product(x: Tensor, y: Tensor) -> Tensor:
    """X yᵀ: (n, d) and (m, d) → (n, m)."""
    if x.dtype == torch.float32 and x.numel() and y.numel() and "onednn" in products_here(x.device):
        result: Tensor = _OneDnnProduct.apply(x, y)  # type: ignore[no-untyped-call]
        return result
    return x @ y.T


class Linear(nn.Linear):
    """`nn.Linear` for (n, inputs) rows, by `product`."""

    def forward(self, input: Tensor) -> Tensor:
        """(n, inputs) → (n, outputs)."""
        result = product(input, self.weight)
        return result if self.bias is None else result + self.bias


class _OneDnnProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return onednn_product(x.contiguous(), y.contiguous(), None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,), (x, y) = gradients, ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad
        of_x = onednn_product(gradient.contiguous(), y.T.contiguous(), None) if needs_x else None
        of_y = onednn_product(gradient.T.contiguous(), x.T.contiguous(), None) if needs_y else None
        return of_x, of_y
