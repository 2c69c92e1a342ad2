from __future__ import annotations

import pytest
import torch

from worldline.training.heads.outcomes import Reward, RewardConfig, Termination, TerminationConfig


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_untrained_reward_is_the_mean() -> None:
    head, rewards = Reward(RewardConfig(latent_size=3, action_size=2, width=8)), 5 + 100 * normal(0, 50)
    head.fit_normaliser(normal(1, 50, 3), normal(2, 50, 2), rewards)
    found = head(normal(3, 2, 4, 3), normal(4, 2, 4, 2))
    torch.testing.assert_close(found, rewards.mean().expand(2, 4))


@pytest.mark.parametrize("ends", [1, 25, 99])
def test_an_untrained_termination_is_the_share_of_ends(ends: int) -> None:
    head = Termination(TerminationConfig(latent_size=3, width=8))
    head.fit_rate(normal(0, 100, 3), torch.arange(100) < ends)
    torch.testing.assert_close(head(normal(1, 2, 5, 3)), torch.full((2, 5), ends / 100))


def test_where_every_state_is_terminal_the_probability_is_still_a_number() -> None:
    head = Termination(TerminationConfig(latent_size=3, width=8))
    head.fit_rate(normal(0, 100, 3), torch.ones(100, dtype=torch.bool))
    assert 0.999 < head(torch.zeros(3)).detach() < 1
