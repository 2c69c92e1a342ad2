from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.models.windows import HEADING, LAMP, POSITION, PUSH, WIND, cut, fit, hide, random_window, seeded

from worldline.errors import ConfigError, UnknownNameError
from worldline.models.base import Losses, Window
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.auxiliary_losses import AuxiliaryConfig
from worldline.models.layers.forecasting_predictors import ConservedPredictorConfig, LinearResidualPredictorConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.models.layers.predictors import GruPredictorConfig, MlpPredictorConfig, TransformerPredictorConfig
from worldline.models.layers.regularizers import SigregConfig, VicregConfig, covariance, sigreg, variance
from worldline.schema import Kind, Role, Schema, Signal
from worldline.testing import check_model

CAMERA = Signal(name="camera", role=Role.OBSERVATION, kind=Kind.IMAGE, shape=(32, 32, 3))


HEAT = Signal(name="heat", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="degC")


REAR = replace(CAMERA, name="rear", shape=(48, 48, 3))


MLP, GRU = MlpPredictorConfig(width=16), GruPredictorConfig(width=16, memory_size=6)
TRANSFORMER = TransformerPredictorConfig(width=16)
SMALL = JepaConfig(
    inputs=("camera",), latent_size=8, encoder=ObservationEncoderConfig(channels=4, width=16), predictor=MLP,
    regularizer=SigregConfig(num_slices=8),
)  # fmt: skip
VICREG: dict[str, Any] = {
    "regularizer": VicregConfig(),
    "auxiliary": AuxiliaryConfig(similarity_weight=12.0, inverse_weight=1.0, width=16),
}
BATCH, LENGTH = 4, 4
NUM_LAW_WINDOWS = 400
"""Enough to fit a conservation law on the toy."""


def schema(*, exogenous: bool = True) -> Schema:
    return Schema(signals=(CAMERA, REAR, POSITION, HEAT, HEADING, LAMP, PUSH, *((WIND,) if exogenous else ())))


def model(*inputs: str, exogenous: bool = True, **settings: Any) -> Jepa:
    torch.manual_seed(0)
    made = Jepa(schema=schema(exogenous=exogenous), config=replace(SMALL, inputs=inputs, **settings))
    for name, weight in made.predictor.named_parameters():
        if "steer.weight" in name:  # 0 at first, so that nothing steers
            torch.nn.init.normal_(weight, std=0.3)
    return made


def linear(history: int = 2, **settings: Any) -> LinearResidualPredictorConfig:
    return LinearResidualPredictorConfig(width=16, history=history, **settings)


def conserving(history: int = 1, **settings: Any) -> ConservedPredictorConfig:
    return ConservedPredictorConfig(width=16, history=history, **settings)


def auxiliary(**settings: Any) -> AuxiliaryConfig:
    return AuxiliaryConfig(width=16, **settings)


def window(*, exogenous: bool = True, batch: int = BATCH, length: int = LENGTH) -> Window:
    seen = random_window(schema(exogenous=exogenous), batch, length)
    seen.observations["heat"].mul_(5).add_(20)
    return seen


def loss(of: Jepa, on: Window) -> Losses:
    return of.loss(on, generator=seeded())


CASES: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("camera",), {}),
    (("position", "heat"), {"signal_weight": 1.0}),
    (("camera", "rear", "position"), {"signal_weight": 1.0, "constant_size": 2}),
    (("lamp", "heading"), {"signal_weight": 1.0}),
    (("position",), VICREG),
    (("position",), {"constant_size": 2, "auxiliary": auxiliary(delta_weight=1.0, straightening_weight=0.1)}),
    (("camera", "heading"), {"predictor": TRANSFORMER, "signal_weight": 1.0, "constant_size": 2, "timed": True}),
    (("position",), {"predictor": GRU, "gradient_steps": 1}),
    (("camera", "position"), {"predictor": linear(3, values=2), "signal_weight": 1.0, "constant_size": 2}),
    (("position", "heading"), {"predictor": conserving(2, gated=True), "signal_weight": 1.0}),
    (("lamp", "heat"), {"predictor": replace(MLP, gated=True), "timed": True}),
    (("camera",), {"auxiliary": auxiliary(targets=("position", "lamp", "heading"))}),
]


@pytest.mark.parametrize(("inputs", "settings"), CASES)
def test_conforms(inputs: tuple[str, ...], settings: dict[str, Any]) -> None:
    exogenous = len(inputs) > 1
    made, seen = model(*inputs, exogenous=exogenous, **settings), window(exogenous=exogenous)
    check_model(made, seen, horizon=3, num_candidates=2)


@pytest.mark.parametrize("settings", [{}, {"predictor": GRU}, {"predictor": MLP, "signal_weight": 1.0}])
def test_conforms_once_it_knows_gaps(settings: dict[str, Any]) -> None:
    fitted = model("camera", "position", "lamp", **settings)
    fitted.fit_normaliser(hide(window(), 0, 1, "camera"))
    check_model(fitted, hide(hide(window(), 1, 2, "lamp"), 0, 1, "position"))


def test_prediction_is_open_loop_from_the_first_latent() -> None:
    net, seen = model("position").eval(), window()
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)], 1)
    start = net.belief(latents[:, 0])
    imagined = net.rollout(start, seen.past, generator=seeded()).features[:, 0, 0]
    due = (imagined - latents[:, 1:]).square().mean()
    torch.testing.assert_close(loss(net, seen).terms["prediction"], due)


def test_sigreg_looks_at_the_latents_of_each_step_at_what_is_constant_and_at_half_of_the_change() -> None:
    net, seen = model("position", constant_size=3).eval(), window()
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)])
    generator = seeded()
    found = loss(net, seen).terms
    torch.testing.assert_close(found["sigreg"], sigreg(latents, num_slices=8, generator=generator))
    torch.testing.assert_close(found["constant"], sigreg(latents[..., -3:], num_slices=8, generator=generator))
    half = (latents[-1:] - latents[:1])[..., :4]
    torch.testing.assert_close(found["change"], sigreg(half, num_slices=8, generator=generator))


def test_a_forecast_is_judged_by_the_learned_part_and_by_the_vectors_against_standing_still() -> None:
    """What refining lessens: a slow vector costs as much as a fast one; the past costs nothing."""
    net = model("camera", "position", signal_weight=2.0, predictor=linear())
    exact, latent = net.num_exact, net.config.latent_size
    net.encoder.vectors.change.fill_(1e-5)
    stored = torch.zeros(5, 3, latent + 4)
    stored[:, 1:, 0], stored[:, 1:, 1:exact] = 1.0, 1e-3  # a fast number, and slow ones
    imagined = stored[:, 1:].clone()
    imagined[..., latent:] += 7.0
    whole = torch.ones(5, 3, dtype=torch.bool)
    assert net.forecast_error(stored, imagined, whole) == 0
    imagined[..., exact:latent] += 3.0
    assert float(net.forecast_error(stored, imagined, whole)) == pytest.approx(9.0)
    half = stored[:, 1:] / 2
    assert float(net.forecast_error(stored, half, whole)) == pytest.approx(2.0 * 0.25, rel=1e-3)
    whole[0, 2] = False  # where not all was observed, what is stored is a guess
    stored[0, 2] = 1e3
    half[0, 1] = -1e3
    assert float(net.forecast_error(stored, half, whole)) == pytest.approx(2.0 * 0.25, rel=1e-3)


@pytest.mark.parametrize("hidden", [(4, 5, 6), (0, 1, 2)])
def test_after_a_gap_it_goes_on_from_what_is_seen_at_the_speed_that_it_had(hidden: tuple[int, ...]) -> None:
    """Even where that is not where it was expected, or nothing had been seen before."""
    net = model("position", signal_weight=1.0, predictor=linear(4, values=2), exogenous=False).eval()
    learnt, shown = window(exogenous=False, batch=64, length=12), window(exogenous=False, batch=8, length=10)

    def gliding(seen: Window, length: int) -> Window:
        start, speed = seen.observations["position"][:, :1], seen.observations["position"][:, 1:2]
        return replace(seen, observations={"position": start + 0.1 * speed * torch.arange(length)[:, None]})

    learnt, shown = gliding(learnt, 12), gliding(shown, 10)
    learnt = replace(learnt, observed={"position": torch.ones(64, 12, dtype=torch.bool)})
    net.fit_normaliser(learnt)
    seen = torch.ones(8, 10, dtype=torch.bool)
    seen[:, list(hidden)] = False
    path = shown.observations["position"]
    leap = torch.where(torch.arange(10)[:, None] > hidden[-1], 3.0, 0.0)
    last = 8 if hidden[0] else 10  # one frame after the gap is enough where the speed was known before it
    given = replace(shown, observations={"position": path + leap}, observed={"position": seen}).first(last)
    belief = net.encode(given, generator=seeded())
    step = shown.past.steps(slice(last - 1, last)) if last < 10 else shown.past.steps(slice(8, 9))
    predicted = net.rollout(belief, step, generator=seeded()).features[:, 0, 0, 0, :2]
    change = (predicted - belief.latent[:, :2]) * net.encoder.vectors.normaliser.deviation[:2]
    torch.testing.assert_close(change, path[:, 1] - path[:, 0], rtol=0.02, atol=0.02)


def circling(batch: int, length: int) -> Window:
    """Positions that turn by 1 at each step, this way or that, each as far from the origin as it began, 1 to 2."""
    draw = seeded(3)
    turns = torch.sign(torch.randn(batch, length, generator=draw))
    angle = 2 * math.pi * torch.rand(batch, 1, generator=draw) + turns.cumsum(1)
    radius = 1 + torch.rand(batch, 1, generator=draw)
    position = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    seen = window(exogenous=False, batch=batch, length=length)
    return replace(seen, observations={"position": position}, observed={"position": torch.ones(batch, length) > 0})


@pytest.mark.parametrize(("share", "kept"), [(0.4, False), (0.6, True)])
def test_a_length_that_stays_is_found_kept_and_saved(share: float, kept: bool) -> None:
    """In the second half of training only. Without the law, predictions go to the middle: turns are random."""
    settings = {"signal_weight": 1.0, "predictor": conserving(), "exogenous": False}
    trained, net = (model("position", **settings).eval() for _ in range(2))
    trained.fit_normaliser(circling(NUM_LAW_WINDOWS, 6))
    trained.on_validation(lambda _: circling(NUM_LAW_WINDOWS, 6), share)
    net.load_state_dict(trained.state_dict())
    assert net.predictor.law.found is kept
    seen = circling(50, 6)
    belief = net.encode(seen.first(2), generator=seeded())
    predicted = net.rollout(belief, seen.past.steps(slice(1, 5)), generator=seeded()).features[:, 0, 0, :, :2]
    lengths = net.encoder.vectors.normaliser.inverse(predicted).norm(dim=-1)
    true_lengths = seen.observations["position"][:, :1].norm(dim=-1)
    close = (lengths / true_lengths - 1).abs() < 0.1
    assert bool(close.all()) is kept
    assert bool(close.any()) is kept


@pytest.mark.parametrize("breaks", [False, True])
def test_a_law_of_what_is_seen_whole_is_held_against_what_goes_on_unseen(breaks: bool) -> None:
    """Every second one is far out, not seen at its second step, and at the origin from then on if it breaks it."""

    def seen(num: int) -> Window:
        on = hide_all(circling(num, 6), "position")
        gone = torch.arange(num) % 2 == 0
        path = on.observations["position"].clone()
        path[gone] *= 10.0
        path[gone, 2:] *= 0.0 if breaks else 1.0
        return replace(
            on, observations={"position": path}, observed={"position": on.observed["position"] | ~gone[:, None]}
        )

    net = model("position", signal_weight=1.0, predictor=conserving(), exogenous=False).eval()
    net.fit_normaliser(circling(NUM_LAW_WINDOWS, 6))
    net.on_validation(lambda _: seen(NUM_LAW_WINDOWS), 1.0)
    assert net.predictor.law.found is not breaks


@pytest.mark.parametrize("name", ["heading", "position"])
def test_where_no_law_can_be_sought_there_is_none(name: str) -> None:
    """Angles have no length; and where something is missing in each window, nothing is known from end to end."""
    net = model(name, signal_weight=1.0, predictor=conserving())
    net.fit_normaliser(window(batch=64))
    net.on_validation(lambda _: hide_all(window(batch=NUM_LAW_WINDOWS), name), 1.0)
    seen = window()
    predicted = net.rollout(net.encode(seen, generator=seeded()), seen.past, generator=seeded()).features
    assert torch.isfinite(predicted).all()
    assert net.predictor.law is None or not net.predictor.law.found


def hide_all(on: Window, name: str) -> Window:
    """Without the second observation of each entry."""
    observed = on.observed[name].clone()
    observed[:, 1] = False
    return replace(on, observed={**on.observed, name: observed})


@pytest.mark.parametrize(("steps", "reaches"), [(0, True), (2, False), (3, True)])
def test_a_gradient_reaches_back_by_gradient_steps(steps: int, reaches: bool) -> None:
    """Only the first observation and the last are seen, so the error is the last step's."""
    net, seen = model("position", signal_weight=1.0, gradient_steps=steps), window()
    for step in (1, 2):
        for entry in range(BATCH):
            seen = hide(seen, entry, step, "position")
    actions = seen.past.actions.clone().requires_grad_()
    loss(net, replace(seen, past=replace(seen.past, actions=actions))).terms["signals"].backward()
    assert actions.grad is not None
    assert bool(actions.grad[:, 0, 0].any()) is reaches
    assert actions.grad[:, 0, 2].any()


def test_the_error_of_signals_is_relative_to_that_of_standing_still() -> None:
    """A model whose vectors stand still errs by 1 at each step but for what one step usually changes."""
    net, seen = model("position", signal_weight=1.0), window(batch=64)
    net.fit_normaliser(seen)
    for parameter in net.predictor.parameters():
        torch.nn.init.zeros_(parameter)
    position = seen.observations["position"]
    scores = (position - position.mean((0, 1))) / position.flatten(0, 1).std(0)
    still = (scores[:, 1:] - scores[:, :1]).square().mean(0)
    usual = scores.diff(dim=1).square().mean((0, 1))
    torch.testing.assert_close(loss(net, seen).terms["signals"], (still / (still + usual)).mean())


def test_the_vectors_leave_room_for_what_is_learned() -> None:
    with pytest.raises(ConfigError, match="latent_size is 3, but the vector inputs need 3"):
        model("position", "heat", latent_size=3, signal_weight=1.0)
    with pytest.raises(ConfigError, match=r"constant_size is 5\. Set it to at least 9"):
        model("position", "heat", latent_size=8, signal_weight=1.0, constant_size=5)
    assert model("position", "heat", latent_size=3).num_exact == 0


def test_nothing_observed_at_all_is_no_division_by_zero() -> None:
    seen = window()
    blind = replace(seen, observed={name: torch.zeros_like(flags) for name, flags in seen.observed.items()})
    found = loss(model("position", signal_weight=1.0), blind).terms
    assert (found["prediction"], found["signals"]) == (0, 0)


def test_the_normaliser_knows_physical_units() -> None:
    """In kelvin or degrees, pixels or metres: once fitted, the model is the same."""
    seen, scaled = window(), window()
    scaled = replace(
        seen,
        observations={**seen.observations, "heat": seen.observations["heat"] * 1.8 + 32},
        past=replace(seen.past, actions=100 * seen.past.actions, exogenous=3 * seen.past.exogenous - 7),
    )
    first, second = model("heat").eval(), model("heat").eval()
    first.fit_normaliser(seen)
    second.fit_normaliser(scaled)
    for name, term in loss(first, seen).terms.items():
        torch.testing.assert_close(loss(second, scaled).terms[name], term, rtol=1e-4, atol=1e-6)


def test_signals_that_it_cannot_take_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'camera'"):
        model("camra")
    with pytest.raises(ConfigError, match="forecasts vectors linearly, but the inputs hold no vector"):
        model("camera", predictor=linear())
    odd = replace(CAMERA, shape=(96, 100, 3))
    with pytest.raises(ConfigError, match=r"96 by 100 .*multiples of 16"):
        Jepa(schema=Schema(signals=(odd, PUSH)), config=JepaConfig(inputs=("camera",)))


def test_actions_that_are_not_there_cannot_be_decoded() -> None:
    with pytest.raises(ConfigError, match="decode actions, but the schema has none"):
        Jepa(
            schema=Schema(signals=(POSITION, WIND)),
            config=replace(SMALL, inputs=("position",), auxiliary=auxiliary(delta_weight=1.0)),
        )


def test_vicreg_is_variance_covariance_similarity_and_the_action() -> None:
    net, seen = model("position", **VICREG).eval(), window()
    net.fit_normaliser(seen)
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)], 1)
    found = loss(net, seen)
    assert found.weights == {"prediction": 1, "variance": 16, "covariance": 8, "similarity": 12, "inverse": 1}
    torch.testing.assert_close(found.terms["variance"], variance(latents.transpose(0, 1)))
    torch.testing.assert_close(found.terms["covariance"], covariance(latents.transpose(0, 1)))
    torch.testing.assert_close(found.terms["similarity"], (latents[:, 1:] - latents[:, :-1]).square().mean())
    assert net.auxiliary.inverse is not None
    decoded = net.auxiliary.inverse(torch.cat([latents[:, :-1], latents[:, 1:]], -1))
    actions = seen.past.actions[:, 0]
    scores = (actions - actions.mean((0, 1))) / actions.flatten(0, 1).std(0)
    torch.testing.assert_close(found.terms["inverse"], (decoded - scores).square().mean())


@pytest.mark.parametrize(("steps", "used"), [(2, 2), (3, 3), (5, 3)])
def test_the_actions_between_are_decoded_from_the_change_of_the_latent(steps: int, used: int) -> None:
    """A window of 4 observations has 3 actions: those of each start are compared one by one."""
    delta = auxiliary(delta_weight=1.0, delta_steps=steps)
    net, seen = model("position", constant_size=2, auxiliary=delta).eval(), window()
    latents = torch.stack([encoded(net, seen, step) for step in range(LENGTH)], 1)[..., :-2]
    assert net.auxiliary.delta is not None
    errors = []
    for start in range(LENGTH - used):
        change = latents[:, start + used] - latents[:, start]
        decoded = torch.as_tensor(net.auxiliary.delta(change)).unflatten(-1, (steps, 2))
        errors.append(decoded[:, :used] - seen.past.actions[:, 0, start : start + used])
    torch.testing.assert_close(loss(net, seen).terms["delta"], torch.stack(errors).square().mean())


def test_straightening_is_one_minus_the_cosine_between_changes() -> None:
    """The latents are the positions: a right turn costs 1, straight on 0, back 2, and a pause has no direction."""
    net = model("position", latent_size=2, auxiliary=auxiliary(straightening_weight=0.1))
    assert net.encoder.vectors is not None
    net.encoder.vectors.layers = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        net.encoder.vectors.layers[0].weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    paths = torch.tensor(
        [[[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [1.0, 3.0]], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    )
    seen = window(batch=2)
    seen = replace(seen, observations={**seen.observations, "position": paths})
    found = loss(net, seen)
    assert found.weights["straightening"] == 0.1
    torch.testing.assert_close(found.terms["straightening"], torch.tensor((1.0 + 0.0 + 2.0) / 3))
    found.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("predictor", [GRU, TRANSFORMER])
def test_with_memory_the_first_steps_are_met_by_observations(predictor: Any) -> None:
    """Of 6 observations the first 3 are shown, so 2 steps are predicted one by one, and 3 open loop."""
    net, seen = model("position", predictor=predictor).eval(), window(length=6)
    latents = torch.stack([encoded(net, seen, step)[:, :8] for step in range(6)], 1)
    predicted = [
        net.rollout(
            net.encode(seen.first(min(step, 2) + 1), generator=seeded()),
            seen.past.steps(slice(min(step, 2), step + 1)),
            generator=seeded(),
        ).features[:, 0, 0, -1, :8]
        for step in range(5)
    ]
    due = (torch.stack(predicted, 1) - latents[:, 1:]).square().mean()
    torch.testing.assert_close(loss(net, seen).terms["prediction"], due)
    assert net.context == 3
    assert model("position").context == 1


@pytest.mark.parametrize("context", [1, 3])
def test_a_recurrent_belief_depends_on_the_last_observations_only(context: int) -> None:
    net = model("position", predictor=GruPredictorConfig(width=16, memory_size=6, context=context)).eval()
    seen = window(batch=2, length=9)
    whole, recent = (net.encode(one, generator=seeded()) for one in (seen, cut(seen, slice(-context, None))))
    torch.testing.assert_close(whole.features(), recent.features())
    each = net.encode_each(seen, 4, generator=seeded())
    torch.testing.assert_close(each[-1].features(), recent.features())


def test_a_transformer_forgets_what_lies_beyond_its_reach() -> None:
    """Two layers that reach 3 steps see 5 in all."""
    net, seen = model("position", predictor=TRANSFORMER).eval(), window(length=9)
    imagined = []
    for changed in (None, 2, 4):
        position = seen.observations["position"].clone()
        if changed is not None:
            position[:, changed] += 1
        other = replace(seen, observations={**seen.observations, "position": position})
        belief = net.encode(other, generator=seeded())
        imagined.append(net.rollout(belief, seen.past.steps(slice(1)), generator=seeded()).features)
    torch.testing.assert_close(imagined[1], imagined[0])
    assert (imagined[2] - imagined[0]).abs().max() > 1e-4


def trained(net: Jepa, draw: Any, updates: int) -> Jepa:
    net.fit_normaliser(draw(512, seeded(1)))
    return fit(net, lambda generator: draw(64, generator), updates, lr=1e-2)


def test_a_missing_vector_is_filled_in_with_what_is_predicted() -> None:
    """The rest is encoded as if the prediction had been observed."""
    net, seen = model("camera", "position", "heat", signal_weight=1.0).eval(), window()
    net.fit_normaliser(seen)
    gap = hide(seen, 1, LENGTH - 1, "heat")
    found = net.encode(gap, generator=seeded()).features()[:, 0]
    before = net.belief(encoded(net, seen, LENGTH - 2))
    predicted = net.rollout(before, seen.past.steps(slice(LENGTH - 2, None)), generator=seeded()).features[:, 0, 0, 0]
    assert net.encoder.vectors is not None
    guess = seen.observations["heat"].clone()
    guess[1, -1] = net.encoder.vectors.normaliser.inverse(predicted[:, :3])[1, 2]
    filled = replace(seen, observations={**seen.observations, "heat": guess})
    torch.testing.assert_close(found, encoded(net, filled, LENGTH - 1), rtol=1e-4, atol=1e-5)


def test_gaps_that_training_knew_are_shown_to_the_encoder() -> None:
    """A camera cannot be filled in: without its picture the encoder is asked only if it learned from such gaps."""
    seen = window()
    gap = hide(seen, 1, LENGTH - 1, "camera")
    known, new = (model("camera", "position").eval() for _ in range(2))
    for net, sample in ((known, gap), (new, seen)):
        net.fit_normaliser(sample)
    assert float(known.encoder.partial) == pytest.approx(1 / 16)
    assert float(new.encoder.partial) == 0
    torch.testing.assert_close(
        known.encode(gap, generator=seeded()).features()[:, 0], encoded(known, gap, LENGTH - 1), rtol=1e-4, atol=1e-5
    )
    alone = encoded(new, gap, LENGTH - 1)
    found = new.encode(gap, generator=seeded()).features()[:, 0]
    torch.testing.assert_close(found[[0, 2, 3]], alone[[0, 2, 3]])
    assert not torch.allclose(found[1], alone[1])


def encoded(net: Jepa, on: Window, step: int) -> torch.Tensor:
    """The latent of one observation by itself."""
    return net.encode(cut(on, slice(step, step + 1)), generator=seeded()).features()[:, 0]


def test_targets_are_learned_from_where_they_are_known() -> None:
    """Two that are never seen at once, one of them a choice of which -1 stands for none."""
    net, seen = model("position", auxiliary=auxiliary(targets=("heat", "lamp"))), window()
    lamp = torch.randint(3, (BATCH, LENGTH), generator=seeded())
    lamp[:, ::2] = -1
    observed = {**seen.observed, "lamp": lamp >= 0, "heat": lamp < 0}
    partial = replace(seen, observations={**seen.observations, "lamp": lamp}, observed=observed)
    net.fit_normaliser(partial)
    term = loss(net, partial).terms["targets"]
    assert 0.1 < float(term.detach()) < 10  # both are z-scores
    values = partial.observations["heat"].where(observed["heat"][..., None], math.nan)
    hidden = replace(partial, observations={**partial.observations, "heat": values})
    torch.testing.assert_close(loss(net, hidden).terms["targets"], term)
    with pytest.raises(ConfigError, match="contain an image"):
        model("position", auxiliary=auxiliary(targets=("camera",)))


def test_targets_show_in_the_latents_once_they_are_asked_for() -> None:
    toy = torch.randn(128, 3, 2, generator=seeded(3))
    seen = replace(
        window(batch=128, length=3, exogenous=False),
        observations={"position": toy, "heat": (toy[..., :1] * toy[..., 1:]).sign() + 20},
        observed={name: torch.ones(128, 3, dtype=torch.bool) for name in ("position", "heat")},
    )
    net = model(
        "position",
        exogenous=False,
        encoder=ObservationEncoderConfig(width=64),
        auxiliary=auxiliary(targets=("heat",), target_weight=3.0),
    )
    trained(net, lambda *_: seen, 60)
    assert net.auxiliary.targets is not None
    real = net.auxiliary.targets.error(torch.stack([encoded(net, seen, step) for step in range(3)], 1), seen)
    assert float(real.detach()) < 0.4
