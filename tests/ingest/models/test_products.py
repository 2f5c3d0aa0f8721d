"""Products by either library, whatever lies how in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.models import products
from ingest.models.products import BLOCK, STEP, product, products_by_position

LAYOUTS = {
    "plain": lambda n, m: torch.randn(n, m),
    "turned": lambda n, m: torch.randn(m, n).T,
    "first rows": lambda n, m: torch.randn(n + 3, m)[:n],
    "first columns": lambda n, m: torch.randn(n, m + 3)[:, :m],
    "turned, with gaps": lambda n, m: torch.randn(m, n + 3)[:, :n].T,
    "every other": lambda n, m: torch.randn(2 * n, m)[::2],
}
sizes = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_every_layout_gives_the_product(rows, inner, columns, left, right, large):
    x, weight = LAYOUTS[left](rows, inner), LAYOUTS[right](inner, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "WORTH_IT", 0 if large else 2**40)
        found = product(x, weight)
    expected = x.double() @ weight.double()
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("worth_it", [0, 2**40])
def test_more_dimensions_and_other_dtypes(monkeypatch, worth_it):
    monkeypatch.setattr(products, "WORTH_IT", worth_it)
    x, weight = torch.randn(40, 30, 100), torch.randn(100, 90)
    torch.testing.assert_close(product(x, weight), x @ weight, rtol=1e-4, atol=1e-4)
    half = product(x.bfloat16(), weight.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half, x.bfloat16() @ weight.bfloat16())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2 * BLOCK + 2 * STEP))
def test_any_number_of_rows_is_made_of_a_few_shapes(rows):
    shapes = set()

    def seen(x: torch.Tensor, turned: torch.Tensor, *_: object) -> torch.Tensor:
        shapes.add(len(x))
        return x @ turned.T

    x, weight = torch.randn(rows, 5), torch.randn(5, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "WORTH_IT", 0)
        patch.setattr(products, "_onednn", lambda: True)
        patch.setattr(torch.ops.mkldnn, "_linear_pointwise", seen)
        found = product(x, weight)
    torch.testing.assert_close(found, x @ weight)
    assert all(size % STEP == 0 and size <= BLOCK for size in shapes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_what_stands_at_a_position_meets_x_there(counts, rows, before, together):
    """Vectors of an earlier position, and of a later one, may stand around those that are asked for."""
    starts = [before, *(before + sum(counts[: i + 1]) for i in range(len(counts)))]
    x, vectors = torch.randn(rows, len(counts), 7), torch.randn(starts[-1] + 2, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "TOGETHER", 2**40 if together else 0)
        found = products_by_position(x, vectors, starts)
    positions = [place for place, count in enumerate(counts) for _ in range(count)]
    expected = torch.einsum("bnd,nd->bn", x[:, positions], vectors[before : starts[-1]])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
