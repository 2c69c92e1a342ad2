from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from worldline.models.layers import precision


@pytest.fixture
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param)
    precision.has_bfloat16.cache_clear()
    yield
    precision.has_bfloat16.cache_clear()


@pytest.mark.parametrize("processor", [{"avx512_bf16": True}, {"amx_bf16": True, "avx512_bf16": False}], indirect=True)
def test_products_run_in_half_precision_where_the_processor_has_it(processor: None) -> None:
    assert precision.has_bfloat16()
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("processor", [{}, {"avx512_f": True, "avx512_bf16": False}], indirect=True)
def test_products_stay_in_full_precision_elsewhere(processor: None) -> None:
    assert not precision.has_bfloat16()
    with precision.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_processor_is_asked_for_what_torch_reports() -> None:
    precision.has_bfloat16.cache_clear()
    assert precision.has_bfloat16() in (True, False)
