"""Linear layers by another library: the same numbers where it is used, and used only where it may be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from puma.items import Item
from puma.retriever.encoding import quick_linear
from puma.retriever.encoding.quick_linear import FEWEST_ROWS, OneDnnLinears, quick_linears
from puma.retriever.model import Retriever
from support import families
from support.plain import image, plain_vectors

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture
def counted(monkeypatch):
    """The products that oneDNN makes; it counts as faster."""
    made, product = [], quick_linear._product
    monkeypatch.setattr(quick_linear, "_pays", lambda threads: True)
    monkeypatch.setattr(quick_linear, "_product", lambda *given: made.append(given[0].shape) or product(*given))
    return made


@needs_onednn
@pytest.mark.parametrize("shape", [(8, 24), (300, 24), (3, 5, 24), (2, 2, 2, 24)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_same(shape, bias, counted):
    layer = torch.nn.Linear(24, 40, bias=bias)
    given = torch.randn(shape)
    strided = torch.randn(*shape[:-1], 48)[..., ::2]
    turned = torch.randn(24, *shape[:-1]).movedim(0, -1)
    with torch.inference_mode():
        expected = [layer(one) for one in (given, strided, turned)]
        with OneDnnLinears():
            found = [layer(one) for one in (given, strided, turned)]
    assert len(counted) == 3
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_what_does_not_fit_goes_its_usual_way(counted):
    weight = torch.randn(16, 24)
    rows = torch.randn(FEWEST_ROWS, 24)
    with torch.inference_mode(), OneDnnLinears():
        functional.linear(rows[:-1], weight)
        functional.linear(rows[:0], weight)
        functional.linear(rows, torch.randn(24, 16).t())
        functional.linear(rows.double(), weight.double())
        functional.linear(rows.bfloat16(), weight.bfloat16())
        functional.linear(rows, weight=weight)
        assert torch.equal(rows.relu(), functional.relu(rows))
    assert counted == []


@needs_onednn
@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_give_the_same_vectors(family, family_base, counted):
    made = Retriever.from_base(family_base(family), layers=2, device="cpu")
    items = [Item(text="red fox"), Item(image=image(1)), Item(image=image(2), text="a blue heart above")]
    expected = plain_vectors(made, items, "Find it.")
    counted.clear()
    np.testing.assert_allclose(made.encode(items, "Find it."), expected, atol=1e-5)
    assert counted


def test_only_models_in_fp32_on_a_cpu(counted):
    model = torch.nn.Linear(4, 4)
    assert isinstance(quick_linears(model), OneDnnLinears)
    for other, autocast in ((torch.nn.Linear(4, 4).bfloat16(), None), (model, torch.bfloat16)):
        assert not isinstance(quick_linears(other, autocast), OneDnnLinears)
    assert not isinstance(quick_linears(torch.nn.Linear(4, 4, device="meta")), OneDnnLinears)


def test_it_is_used_only_where_it_pays(monkeypatch):
    model = torch.nn.Linear(4, 4)
    monkeypatch.setattr(quick_linear, "_pays", lambda threads: False)
    assert not isinstance(quick_linears(model), OneDnnLinears)


@pytest.mark.parametrize("failing", [lambda *_, **__: 1 / 0, lambda given, weight, bias: given @ weight.T * 1.001])
def test_a_library_that_is_absent_or_wrong_is_left_alone(monkeypatch, failing):
    def product(*given, **named):
        try:
            return failing(*given, **named)
        except ZeroDivisionError:
            raise RuntimeError("no such operator") from None

    monkeypatch.setattr(quick_linear, "_product", product)
    assert quick_linear._pays.__wrapped__(1) is False
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert quick_linear._pays.__wrapped__(1) is False


@pytest.mark.parametrize(("seconds", "pays"), [((2.0, 1.0), True), ((1.2, 1.0), False), ((1.0, 2.0), False)])
def test_it_pays_where_the_clock_says_so(monkeypatch, seconds, pays):
    clock, plain = [0.0], functional.linear

    def taking(time, way):
        def timed(*given):
            clock[0] += time
            return way(*given)

        return timed

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(quick_linear, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(quick_linear, "functional", SimpleNamespace(linear=taking(seconds[0], plain)))
    monkeypatch.setattr(quick_linear, "_product", taking(seconds[1], lambda given, weight, bias: plain(given, weight)))
    assert quick_linear._pays.__wrapped__(1) is pays
