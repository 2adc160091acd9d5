"""Faster linear layers for a transformer: the product that a probe finds fastest, in float32 or bf16.

Belongs here: which function multiplies, and the layers that replace a model's own with it. On some
processors torch's default takes a slow path (MKL on AMD), and the oneDNN inside torch is twice as
fast at the same numerics. Each product is tried to find out whether the processor supports it: oneDNN,
for example, refuses bf16 without AVX-512. Nothing here knows ImageBind's weights or files.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

LinearProduct = Callable[[Tensor, Tensor, Tensor | None], Tensor]
LinearProductName = Literal["torch", "onednn"]
Size = tuple[int, int, int]
"""Rows, inputs and outputs of a linear layer."""

# Another product must beat torch's own by this factor: closer to one, noise would decide.
CLEAR_GAIN = 1.2
PROBE_SIZE: Size = (257, 1280, 320)
_PROBE_ROUNDS = 4

# Relative to the result's norm: several times the error of rounding alone.
_WRONG_FROM = {torch.float32: 1e-3, torch.bfloat16: 1e-2}


def onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`functional.linear`, computed by the oneDNN that torch is built with."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


LINEAR_PRODUCTS: dict[LinearProductName, LinearProduct] = {
    "torch": functional.linear,
    "onednn": onednn_product,
}


def products_here(
    device: torch.device, dtype: torch.dtype, sizes: Collection[Size]
) -> dict[LinearProductName, LinearProduct]:
    """The products that the device can compute in this dtype at every one of these sizes."""
    return {
        name: product
        for name, product in LINEAR_PRODUCTS.items()
        if not linear_refusal(name, device, dtype, sizes)
    }


def linear_refusal(
    name: LinearProductName, device: torch.device, dtype: torch.dtype, sizes: Collection[Size]
) -> str:
    """Why the device cannot compute a product in this dtype at one of these sizes; empty if it can."""
    if name == "onednn" and device.type != "cpu":
        return "oneDNN computes on the CPU only"
    if name == "torch":
        # A public operator supports every size: one row shows whether the dtype is supported.
        sizes = {(1, inputs, outputs) for _, inputs, outputs in sizes}
    found = (_refusal_at(LINEAR_PRODUCTS[name], device, dtype, size) for size in sorted(sizes))
    return next(filter(None, found), "")


@cache
def _refusal_at(product: LinearProduct, device: torch.device, dtype: torch.dtype, size: Size) -> str:
    rows, inputs, outputs = size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    few = torch.randn(8, inputs, generator=generator).to(dtype)
    often = -(-outputs // 8)
    weight = few.repeat(often, 1)[:outputs].contiguous()
    try:
        with torch.inference_mode(), _one_thread():
            result = product(x.to(device), weight.to(device), None)
    except (AttributeError, RuntimeError) as error:  # a torch without the operator, or a refusal
        return str(error).splitlines()[0].partition(". Run workload with")[0]
    expected = (x.double() @ few.double().T).repeat(1, often)[:, :outputs]
    off = float((result.cpu().double() - expected).norm() / expected.norm())
    return "" if off <= _WRONG_FROM[dtype] else f"its result is off by {off:.1%}"


def probe_seconds(product: LinearProduct, dtype: torch.dtype) -> float:
    """Seconds that one thread needs for a layer of 0.2 GFLOP: the best of a few rounds."""
    rows, inputs, outputs = PROBE_SIZE
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator).to(dtype)
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
    best = float("inf")
    with torch.inference_mode(), _one_thread():
        for _ in range(_PROBE_ROUNDS):
            start = time.perf_counter()
            product(x, weight, None)
            best = min(best, time.perf_counter() - start)
    return best


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def fastest_linear_product(dtype: torch.dtype, sizes: Collection[Size]) -> tuple[LinearProductName, float]:
    """The fastest of the products that the CPU can compute at these sizes, and its seconds in the probe.

    If there is none, torch's own with infinite seconds.
    """
    products = products_here(torch.device("cpu"), dtype, {*sizes, PROBE_SIZE})
    seconds: dict[LinearProductName, float] = {"torch": float("inf")}
    seconds |= {name: probe_seconds(product, dtype) for name, product in products.items()}
    fastest = min(seconds, key=lambda name: seconds[name])
    if seconds["torch"] < CLEAR_GAIN * seconds[fastest]:
        fastest = "torch"
    return fastest, seconds[fastest]


def layer_sizes(block: nn.Module, rows: int) -> set[Size]:
    """Sizes of the layers that `use_product` replaces in a block whose input has this many rows."""
    weights = [module.weight for module in block.modules() if isinstance(module, nn.Linear)]
    weights += [
        module.in_proj_weight for module in block.modules() if isinstance(module, nn.MultiheadAttention)
    ]
    return {(rows, weight.shape[1], weight.shape[0]) for weight in weights}


def use_product(block: nn.Module, product: LinearProduct, dtype: torch.dtype) -> None:
    """Replace the linear layers and the attention of a transformer block, in place.

    The residual stream and the normalisations stay float32; the products take and return `dtype`.
    This is what autocast does, but the weights are converted once instead of in each call.

    Args:
        block: its linear layers are `nn.Linear`, its attention is `nn.MultiheadAttention` with one input
            for query, key and value, sequence first.
        product: see `LINEAR_PRODUCTS`.
        dtype: of the weights and products, float32 or bfloat16.
    """
    for name, child in list(block.named_children()):
        if isinstance(child, nn.MultiheadAttention):
            setattr(block, name, ProductAttention(child, product, dtype))
        elif isinstance(child, nn.Linear):
            setattr(block, name, ProductLinear(child.weight, child.bias, product, dtype))
        else:
            use_product(child, product, dtype)


class ProductLinear(nn.Module):
    """A linear layer that uses the given product."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, product: LinearProduct, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().to(dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().to(dtype))
        self.weight: Tensor
        self.bias: Tensor | None
        self._product = product

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs) of the layer's dtype."""
        return self._product(x.to(self.weight.dtype), self.weight, self.bias)


class ProductAttention(nn.Module):
    """Self-attention of `nn.MultiheadAttention`, sequence first, that uses the given product."""

    def __init__(self, attention: nn.MultiheadAttention, product: LinearProduct, dtype: torch.dtype) -> None:
        super().__init__()
        self._heads = attention.num_heads
        self.projection = ProductLinear(attention.in_proj_weight, attention.in_proj_bias, product, dtype)
        self.output = ProductLinear(attention.out_proj.weight, attention.out_proj.bias, product, dtype)
        for name, extra in (("extra_key", attention.bias_k), ("extra_value", attention.bias_v)):
            self.register_buffer(name, None if extra is None else extra.detach().to(dtype))
        self.extra_key: Tensor | None
        self.extra_value: Tensor | None

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(length, n, width) to (length, n, width)."""
        if attn_mask is not None:
            raise ValueError("attention masks are not supported: only the text trunk uses them")
        length, count, width = x.shape
        query, key, value = self.projection(x).chunk(3, dim=-1)
        if self.extra_key is not None and self.extra_value is not None:
            key = torch.cat([key, self.extra_key.expand(1, count, width)])
            value = torch.cat([value, self.extra_value.expand(1, count, width)])

        def by_head(tokens: Tensor) -> Tensor:
            return tokens.reshape(-1, count, self._heads, width // self._heads).permute(1, 2, 0, 3)

        attended = attend(by_head(query), by_head(key), by_head(value))
        output: Tensor = self.output(attended.permute(2, 0, 1, 3).reshape(length, count, width))
        return output


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyᵀ / √d) value: (n, heads, length, d) of queries, as torch's own attention.

    On a CPU, torch's kernel is no faster in bf16. There the scores and their softmax are float32, as
    they are inside that kernel too, and only the larger product with the values is bf16: half the time
    with AVX-512 bf16.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return functional.scaled_dot_product_attention(query, key, value)
    count, heads, length, width = query.shape

    def stacked(tokens: Tensor, dtype: torch.dtype) -> Tensor:
        return tokens.to(dtype).reshape(count * heads, -1, width)

    scores = torch.baddbmm(
        torch.empty(1),
        stacked(query, torch.float32),
        stacked(key, torch.float32).transpose(1, 2),
        beta=0,
        alpha=width**-0.5,
    )
    weights = scores.softmax(dim=-1).to(torch.bfloat16)
    return torch.bmm(weights, stacked(value, torch.bfloat16)).reshape(count, heads, length, width)
