"""Products by oneDNN against float64, forward and backward."""

import pytest
import torch

from emid_assets.adapters.networks import linear as products
from emid_assets.adapters.networks.linear import Linear, product
from emid_assets.encoders.linear_products import onednn_product


@pytest.mark.parametrize(("n", "m", "d"), [(7, 11, 5), (1, 3, 257), (4, 1, 1), (0, 3, 5), (3, 2, 0)])
def test_a_product_and_its_gradients_are_those_of_float64(n: int, m: int, d: int) -> None:
    torch.manual_seed(0)
    x, y, weights = torch.randn(n, d), torch.randn(m, d), torch.randn(n, m)
    results = []
    for dtype in (torch.float32, torch.float64):
        left, right = (part.to(dtype, copy=True).requires_grad_() for part in (x, y))
        result = product(left, right)
        (result * weights.to(dtype)).sum().backward()
        results.append((result.detach(), left.grad, right.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=1e-5)


def test_a_gradient_that_nobody_needs_is_not_computed() -> None:
    x, y = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    product(x, y).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(y.grad, x.sum(0).expand(5, -1))


@pytest.mark.parametrize("bias", [True, False])
def test_the_linear_layer_is_torchs_with_the_same_weights(bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = Linear(6, 3, bias=bias), torch.nn.Linear(6, 3, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(8, 6)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("refused", ["forward", "gradient of x", "gradient of y"])
def test_a_size_that_onednn_refuses_is_computed_by_torch(
    monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    sizes = {"forward": (6, 4, 10), "gradient of x": (6, 10, 4), "gradient of y": (10, 6, 4)}
    computed = []

    def picky(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        size = (len(x), *y.shape[::-1])
        if size == sizes[refused]:
            raise RuntimeError("could not create a primitive")
        computed.append(size)
        return onednn_product(x, y, bias)

    monkeypatch.setattr(products, "onednn_product", picky)
    monkeypatch.setattr(products, "_onednn_multiplies_on", lambda device: True)
    x, y = torch.randn(6, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
    result = product(x, y)
    result.sum().backward()
    torch.testing.assert_close(result, x @ y.T)
    torch.testing.assert_close(x.grad, y.sum(0).expand(6, -1))
    torch.testing.assert_close(y.grad, x.sum(0).expand(10, -1))
    assert sorted(computed) == sorted(size for name, size in sizes.items() if name != refused)


def test_without_onednn_torch_computes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_onednn_multiplies_on", lambda device: False)
    monkeypatch.setattr(products, "onednn_product", None)
    x, y = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    product(x, y).sum().backward()
    torch.testing.assert_close(y.grad, x.sum(0).expand(5, -1))
