"""A belief that is built again from its features goes on as the one that they were taken from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.models import test_ensemble, test_jepa, test_rssm
from tests.models.windows import LAMP, POSITION, seeded

from worldline.models.base import Window, WorldModel

MODELS: dict[str, Callable[[], tuple[WorldModel, Window]]] = {
    "jepa": lambda: (test_jepa.model("position", predictor=test_jepa.GRU), test_jepa.window()),
    "jepa-linear": lambda: (
        test_jepa.model("position", predictor=test_jepa.linear(3), signal_weight=1.0),
        test_jepa.window(),
    ),
    "ensemble": lambda: (test_ensemble.build(POSITION, LAMP, history=3), test_ensemble.window()),
    "rssm": lambda: (test_rssm.model("position"), test_rssm.window()),
}


@pytest.mark.parametrize("family", MODELS)
def test_features_are_the_whole_belief(family: str) -> None:
    net, seen = MODELS[family]()
    net.fit_normaliser(seen)
    net.eval()
    belief = net.encode(seen, generator=seeded())
    again = net.belief(belief.features()[:, 0])
    paths = [net.rollout(start, seen.past, generator=seeded(1)).features for start in (belief, again)]
    assert torch.equal(*paths)
