from __future__ import annotations

import torch

from worldline.heads.readout import Readout, ReadoutConfig


def head() -> Readout:
    torch.manual_seed(0)
    return Readout(ReadoutConfig(latent_size=4, signals={"position": 2, "heat": 1}, width=8))


def test_each_signal_has_its_name_and_size() -> None:
    for leading in [(), (5,), (2, 3, 1, 6)]:
        read = head()(torch.zeros(*leading, 4))
        assert {name: value.shape for name, value in read.items()} == {"position": (*leading, 2), "heat": (*leading, 1)}


def test_values_are_in_physical_units() -> None:
    net, values = head(), torch.tensor([[0.0, 10.0, 280.0], [4.0, 30.0, 300.0]])
    net.normaliser.fit(values)
    latents = torch.randn(7, 4)
    joined = torch.cat(list(net(latents).values()), -1)
    torch.testing.assert_close(joined, net.normaliser.inverse(net.scores(latents)))
    torch.testing.assert_close(net.normaliser(joined), net.scores(latents), rtol=1e-4, atol=1e-4)


def test_a_linear_map_is_found_exactly_whatever_is_missing() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, weights = torch.randn(200, 4, generator=generator), torch.randn(4, 3, generator=generator)
    net, truth = head(), latents @ weights * 20 + 5
    known = torch.rand(200, 3, generator=generator) < 0.7
    net.fit_linear(latents, truth.where(known, torch.nan), known)
    torch.testing.assert_close(torch.cat(list(net(latents).values()), -1), truth, rtol=1e-4, atol=1e-3)


def test_a_signal_never_seen_and_an_idle_latent_do_no_harm() -> None:
    latents = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 1.0, 0.0])
    truth = latents[:, :3] * torch.tensor([1e-3, 1.0, torch.nan])
    net = head()
    net.fit_linear(latents, truth, torch.tensor([True, True, False]).expand(50, 3))
    read = net(latents)
    torch.testing.assert_close(read["position"], truth[:, :2], rtol=1e-4, atol=1e-6)
    assert (read["heat"] == 0).all()
