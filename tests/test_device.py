from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from worldline import device as devices
from worldline.device import (
    CPU,
    autocast,
    choose_device,
    describe_device,
    device_of,
    exact_float,
    generator_on,
    normal,
    uniform,
)
from worldline.errors import InputError

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Pretends that the machine has these devices; without arguments it has only a CPU."""

    def pretend(*, gpus: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    pretend()
    return pretend


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps:0"),
        (2, True, "auto", "cuda:0"),
        (2, True, "cpu", "cpu"),
        (2, True, "mps", "mps:0"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
    ],
)
def test_a_name_gives_a_device(machine: Machine, gpus: int, mps: bool, name: str, expected: str) -> None:
    machine(gpus=gpus, mps=mps)
    assert str(choose_device(name)) == expected


def test_each_process_of_torchrun_has_its_own_gpu(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device() == CPU
    machine(gpus=2)
    assert str(choose_device()) == str(choose_device("cuda")) == "cuda:1"
    assert str(choose_device("cuda:0")) == "cuda:0"
    machine(gpus=1)
    with pytest.raises(InputError, match="'auto' is not available: cuda:1 is not among cuda:0, cpu"):
        choose_device()


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:one", "cuda:-1", "cpu:0", "meta", "CPU"])
def test_an_unknown_name_is_an_error(machine: Machine, name: str) -> None:
    machine(gpus=1)
    with pytest.raises(InputError, match=f"device '{name}' is unknown. Choose auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", "'cuda' is not available: cuda:0 is not among cpu"),
        (0, "mps", "'mps' is not available: mps is not among cpu"),
        (2, "cuda:2", "'cuda:2' is not available: cuda:2 is not among cuda:0, cuda:1, cpu"),
    ],
)
def test_an_absent_device_is_an_error_that_names_the_others(
    machine: Machine, gpus: int, name: str, message: str
) -> None:
    machine(gpus=gpus)
    with pytest.raises(InputError, match=message):
        choose_device(name)


def test_a_module_is_where_its_tensors_are() -> None:
    assert device_of(nn.Linear(1, 1, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(1, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()) == CPU


def test_reports_name_the_threads_or_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H100")
    assert describe_device(CPU) == "cpu, 2 threads"
    assert describe_device(torch.device("cuda:1")) == "cuda:1, H100"
    assert describe_device(torch.device("mps:0")) == "mps"


def test_a_cpu_generator_draws_itself_and_seeds_those_of_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    source, own = torch.Generator().manual_seed(0), torch.Generator
    assert generator_on(CPU, source) is source
    monkeypatch.setattr(torch, "Generator", lambda device: own())  # there is no GPU here
    first, second = (generator_on(torch.device("cuda:0"), source) for _ in range(2))
    assert first.initial_seed() != second.initial_seed()
    source.manual_seed(0)
    assert generator_on(torch.device("cuda:0"), source).initial_seed() == first.initial_seed()


def test_draws_are_moved_from_the_device_of_the_generator() -> None:
    for draw, own in ((uniform, torch.rand), (normal, torch.randn)):
        drawn = draw((2, 3), torch.Generator().manual_seed(0), CPU)
        assert torch.equal(drawn, own(2, 3, generator=torch.Generator().manual_seed(0)))
        assert draw((2, 3), torch.Generator(), torch.device("meta")).device.type == "meta"


def test_double_precision_is_used_where_it_exists() -> None:
    assert exact_float(CPU) == exact_float(torch.device("cuda:0")) == torch.float64
    assert exact_float(torch.device("mps:0")) == torch.float32


@pytest.fixture
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param)
    devices.has_bfloat16.cache_clear()
    yield
    devices.has_bfloat16.cache_clear()


def product() -> torch.dtype:
    return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype


@pytest.mark.parametrize("processor", [{"avx512_bf16": True}, {"amx_bf16": True, "avx512_bf16": False}], indirect=True)
def test_products_run_in_half_precision_where_the_processor_has_it(processor: None) -> None:
    assert devices.has_bfloat16()
    with autocast(CPU):
        assert product() == torch.bfloat16
    with autocast(CPU, enabled=False):
        assert product() == torch.float32


@pytest.mark.parametrize("processor", [{}, {"avx512_f": True, "avx512_bf16": False}], indirect=True)
def test_products_stay_in_full_precision_elsewhere(processor: None) -> None:
    assert not devices.has_bfloat16()
    with autocast(CPU):
        assert product() == torch.float32
