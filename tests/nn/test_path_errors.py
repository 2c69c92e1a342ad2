from __future__ import annotations

import torch

from worldline.nn.path_errors import length_error, signal_error


def test_who_does_not_know_the_way_is_to_be_short_by_error_and_long_by_length() -> None:
    """A velocity of 1 that a contact turns to either side: the mean of both is nothing, and no speed."""
    side = torch.tensor([1.0, -1.0]).repeat(32)
    seen = torch.zeros(64, 3, 2)
    seen[:, :2, 0], seen[:, 2, 1] = 1.0, side
    seen[:, 1] *= 1.01  # what changes in a step has a size
    shown, known = torch.ones(64, 3, dtype=torch.bool), torch.ones(64, 3, 1, dtype=torch.bool)

    def errors(speed: float) -> tuple[float, float]:
        imagined = seen[:, 1:].clone()
        imagined[:, 1] = torch.tensor([0.0, speed])
        of_signals = signal_error(seen, imagined, known.expand(-1, -1, 2), shown, torch.ones(2), 1)
        lengths = seen.square().sum(-1, keepdim=True), imagined.square().sum(-1, keepdim=True)
        return float(of_signals), float(length_error(*lengths, known, shown, 1))

    assert errors(0.0)[0] < errors(1.0)[0]
    assert errors(1.0)[1] < errors(0.0)[1]
    assert errors(1.0)[1] < 1e-6


def test_lengths_that_never_change_or_were_never_seen_do_not_spoil_the_loss() -> None:
    lengths, imagined = torch.ones(4, 3, 2), torch.ones(4, 2, 2)
    known = torch.ones(4, 3, 2, dtype=torch.bool)
    known[..., 1] = False
    found = length_error(lengths, imagined, known, known.any(-1), 1)
    assert found == 0
