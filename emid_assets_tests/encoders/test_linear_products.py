import copy

import pytest
import torch
from torch import nn

from emid_assets.encoders import linear_products
from emid_assets.encoders.linear_products import (
    LINEAR_PRODUCTS,
    LinearProduct,
    LinearProductName,
    ProductAttention,
    Size,
    fastest_linear_product,
    layer_sizes,
    linear_refusal,
    products_here,
    use_product,
)

pytestmark = pytest.mark.processor

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self, extra_key: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(32, 4, add_bias_kv=extra_key)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32, bias=False))


SIZES = [
    linear_products.PROBE_SIZE, (1, 1280, 5120), (1, 257, 3), (4, 1, 1), (1, 1, 1), (7, 5, 11), (229, 64, 192)
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["torch", "onednn"])
def test_a_product_is_a_candidate_exactly_where_this_processor_can_make_it(
    name: LinearProductName, dtype: torch.dtype
) -> None:
    for size in SIZES:
        x, weight = torch.randn(size[:2]).to(dtype), torch.randn(size[2], size[1]).to(dtype)
        try:
            result = LINEAR_PRODUCTS[name](x, weight, None).double()
            can = torch.allclose(result, x.double() @ weight.double().T, rtol=0.01, atol=0.5)
        except RuntimeError:
            can = False
        assert (
            (name in products_here(CPU, dtype, [size]))
            == can
            == (not linear_refusal(name, CPU, dtype, [size]))
        )


def test_torchs_own_product_is_a_candidate_on_every_processor() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert "torch" in products_here(CPU, dtype, SIZES)


def refused_when_odd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if len(x) % 2:
        raise RuntimeError("could not create a primitive. Run workload with environment variable X")
    return torch.nn.functional.linear(x, weight, bias)


def doubled_when_wide(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.nn.functional.linear(x, weight, bias) * (2 if len(weight) > 320 else 1)


@pytest.mark.parametrize(
    ("product", "bad_size", "why"),
    [
        (refused_when_odd, (7, 32, 64), "could not create a primitive"),
        (doubled_when_wide, (4, 32, 321), "its result is off by 100.0%"),
    ],
)
def test_one_size_that_cannot_be_made_or_is_wrong_takes_a_product_out_of_the_choice(
    monkeypatch: pytest.MonkeyPatch, product: LinearProduct, bad_size: Size, why: str
) -> None:
    monkeypatch.setitem(LINEAR_PRODUCTS, "onednn", product)
    monkeypatch.setattr(linear_products, "PROBE_SIZE", (4, 32, 64))
    monkeypatch.setattr(linear_products, "probe_seconds", lambda each, dtype: float(each is not product))
    assert fastest_linear_product(torch.float32, [(2, 32, 64)]) == ("onednn", 0.0)
    assert fastest_linear_product(torch.float32, [(2, 32, 64), bad_size]) == ("torch", 1.0)
    assert linear_refusal("onednn", CPU, torch.float32, [(2, 32, 64), bad_size]) == why


def test_a_torch_without_the_operator_has_no_onednn_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setitem(LINEAR_PRODUCTS, "onednn", gone)
    assert list(products_here(CPU, torch.float32, [(2, 3, 4)])) == ["torch"]


def test_onednn_is_for_the_cpu_alone() -> None:
    assert "CPU only" in linear_refusal("onednn", torch.device("cuda"), torch.float32, [(2, 3, 4)])


def test_the_sizes_of_a_block_are_those_of_the_products_that_it_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()

    def watched(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.add((x[..., 0].numel(), x.shape[-1], len(weight)))
        return torch.nn.functional.linear(x, weight, bias)

    block = Block(True)
    sizes = layer_sizes(block, 51)
    use_product(block, watched, torch.float32)
    x = torch.randn(17, 3, 32)
    block.mlp(block.attn(x))
    assert seen == sizes


@pytest.mark.parametrize("name", list(products_here(CPU, torch.float32, [(51, 32, 64)])))
@pytest.mark.parametrize("extra_key", [True, False])
def test_a_block_gives_what_it_gave_with_its_own_layers(name: LinearProductName, extra_key: bool) -> None:
    torch.manual_seed(0)
    block = Block(extra_key).eval()
    changed = copy.deepcopy(block)
    use_product(changed, LINEAR_PRODUCTS[name], torch.float32)
    assert isinstance(changed.attn, ProductAttention)
    x = torch.randn(17, 3, 32)
    with torch.inference_mode():
        expected = block.attn(x, x, x, need_weights=False)[0]
        torch.testing.assert_close(changed.attn(x), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(changed.mlp(x), block.mlp(x), rtol=1e-4, atol=1e-6)


def test_bf16_layers_stay_near_float32() -> None:
    torch.manual_seed(0)
    block = Block(True).eval()
    changed = copy.deepcopy(block)
    use_product(changed, LINEAR_PRODUCTS["torch"], torch.bfloat16)
    x = torch.randn(17, 3, 32)
    with torch.inference_mode():
        expected, got = block.attn(x, x, x)[0], changed.attn(x)
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_bf16_attention_is_about_as_near_to_float64_as_bf16_can_be(sharpness: float) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(3, 4, 257, 80, dtype=torch.float64) for _ in range(3)]
    query, key, value = (tensor.bfloat16() for tensor in (sharpness * exact[0], exact[1], exact[2]))
    scores = query.double() @ key.double().transpose(-1, -2) / 80**0.5
    expected = scores.softmax(-1) @ value.double()

    def off(got: torch.Tensor) -> float:
        return float((got.double() - expected).norm() / expected.norm())

    # Not by torch's own attention, which fails in bf16 on some processors.
    assert off(linear_products.attend(query, key, value)) < 1.5 * off(expected.bfloat16())


def test_attention_with_a_mask_is_refused() -> None:
    attention = ProductAttention(nn.MultiheadAttention(8, 2), LINEAR_PRODUCTS["torch"], torch.float32)
    with pytest.raises(ValueError, match="mask"):
        attention(torch.zeros(3, 1, 8), torch.zeros(3, 3))


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"torch": 2.0, "onednn": 1.0}, "onednn"),
        ({"torch": 1.1, "onednn": 1.0}, "torch"),
        ({"torch": 1.0, "onednn": 5.0}, "torch"),
    ],
)
def test_another_product_is_taken_only_for_a_clear_gain(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], chosen: str
) -> None:
    names = {product: name for name, product in LINEAR_PRODUCTS.items()}
    monkeypatch.setattr(linear_products, "products_here", lambda device, dtype, sizes: LINEAR_PRODUCTS)
    monkeypatch.setattr(linear_products, "probe_seconds", lambda product, dtype: seconds[names[product]])
    assert fastest_linear_product(torch.float32, []) == (chosen, seconds[chosen])


def test_where_no_product_can_be_made_torchs_own_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_products, "products_here", lambda device, dtype, sizes: {})
    assert fastest_linear_product(torch.bfloat16, []) == ("torch", float("inf"))


def test_the_probe_multiplies_a_few_times_and_leaves_the_number_of_threads_alone() -> None:
    threads, seen = torch.get_num_threads(), []

    def watched(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        seen.append((len(x), *weight.shape[::-1], torch.get_num_threads()))
        return torch.nn.functional.linear(x, weight, bias)

    assert linear_products.probe_seconds(watched, torch.float32) > 0
    assert seen == [(257, 1280, 320, 1)] * 4
    assert torch.get_num_threads() == threads
