import copy

import pytest
import torch
from torch import nn

from emid_assets.encoders import linear_products
from emid_assets.encoders.linear_products import (
    PRODUCTS,
    ProductAttention,
    fastest_product,
    products_here,
    use_product,
)

CPU = torch.device("cpu")


class Block(nn.Module):
    def __init__(self, extra_key: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(32, 4, add_bias_kv=extra_key)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32, bias=False))


@pytest.mark.parametrize("name", list(products_here(CPU)))
@pytest.mark.parametrize("extra_key", [True, False])
def test_a_block_gives_what_it_gave_with_its_own_layers(name: str, extra_key: bool) -> None:
    torch.manual_seed(0)
    block = Block(extra_key).eval()
    changed = copy.deepcopy(block)
    use_product(changed, PRODUCTS[name], torch.float32)  # type: ignore[index]
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
    use_product(changed, PRODUCTS["torch"], torch.bfloat16)
    x = torch.randn(17, 3, 32)
    with torch.inference_mode():
        expected, got = block.attn(x, x, x)[0], changed.attn(x)
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_bf16_attention_is_as_near_to_float64_as_torchs_own(sharpness: float) -> None:
    torch.manual_seed(0)
    exact = [torch.randn(3, 4, 257, 80, dtype=torch.float64) for _ in range(3)]
    query, key, value = (tensor.bfloat16() for tensor in (sharpness * exact[0], exact[1], exact[2]))
    scores = query.double() @ key.double().transpose(-1, -2) / 80**0.5
    expected = scores.softmax(-1) @ value.double()

    def off(got: torch.Tensor) -> float:
        return float((got.double() - expected).norm() / expected.norm())

    own = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert off(linear_products.attend(query, key, value)) < max(1.2 * off(own), 5e-3)


def test_attention_with_a_mask_is_refused() -> None:
    attention = ProductAttention(nn.MultiheadAttention(8, 2), PRODUCTS["torch"], torch.float32)
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
    names = {product: name for name, product in PRODUCTS.items()}
    monkeypatch.setattr(linear_products, "products_here", lambda device: PRODUCTS)
    monkeypatch.setattr(linear_products, "probe_seconds", lambda product, dtype: seconds[names[product]])
    assert fastest_product(CPU, torch.float32)[0] == chosen


def test_the_probe_is_short_and_leaves_the_number_of_threads_alone() -> None:
    threads = torch.get_num_threads()
    assert 0 < linear_products.probe_seconds(PRODUCTS["torch"], torch.float32) < 1
    assert torch.get_num_threads() == threads
