"""What a world reads from pictures is measured on real ones, and what it cannot read is not graded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldline.audit.grades import Verdict
from worldline.config import replace_at
from worldline.data.store import Store
from worldline.engines.baselines import Persistence
from worldline.engines.learned import LearnedEngine
from worldline.labs.drawing import CAMERA
from worldline.labs.playing import explore
from worldline.models.jepa import Jepa, JepaConfig
from worldline.models.layers.observation_encoder import ObservationEncoderConfig
from worldline.planning.planners.cem import CrossEntropy
from worldline.schema import Kind, Role, Signal
from worldline.training.heads.base import by_name
from worldline.training.heads.mahalanobis import MahalanobisConfig, MahalanobisScore
from worldline.training.heads.readout import Readout, ReadoutConfig
from worldline.world.local import LocalWorld
from worldline_exam.exam_tests.spurious_channel import HEATS
from worldline_exam.folder import read_exam
from worldline_exam.labs.hidden_mover import HiddenMover
from worldline_exam.labs.lamp import Lamp
from worldline_exam.options import ExamOptions
from worldline_exam.readability import MIN_R2, explained, read_from, unread
from worldline_exam.run import exam
from worldline_exam.subjects import ExamSubject, LearnedWorld, Terms, TrivialSubject

PLACE = Signal(name="place", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(2,), unit="m")
TURN = Signal(name="turn", role=Role.OBSERVATION, kind=Kind.VECTOR, shape=(1,), unit="rad", low=(0.0,), period=6.0)


def test_what_is_explained_is_a_share_of_the_deviation() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((4000, 2))
    noisy = truth + np.array([0.1, 1.0]) * rng.standard_normal((4000, 2))
    assert explained(PLACE, truth, truth) == 1.0
    assert explained(PLACE, truth, noisy) == pytest.approx((0.99 + 0.0) / 2, abs=0.05)  # the mean of both components
    assert explained(PLACE, truth, np.broadcast_to(truth.mean(0), truth.shape)) == pytest.approx(0)
    held = truth * np.array([1.0, 0.0])  # a component that never varies does not count
    assert explained(PLACE, held, held + np.array([0.0, 1.0])) == 1.0
    assert explained(PLACE, 0 * truth, 0 * truth) == -np.inf


def test_the_shorter_way_round_counts() -> None:
    truth = np.array([[0.1], [5.9], [3.0], [0.2], [5.8]])
    assert explained(TURN, truth, np.mod(truth - 0.2, 6.0)) > 0.99


def test_the_reason_names_each_signal_and_how_well_it_is_read() -> None:
    assert (unread({"place": 0.95, "turn": MIN_R2}, ("place", "turn")), unread({}, ())) == ("", "")
    said = unread({"place": 0.95, "turn": 0.41}, ("place", "turn", "speed"))
    assert said.split(": ")[1].startswith("turn 0.41, speed.")
    assert "place" not in said
    assert "R^2 below 0.9" in said
    assert "turn" in unread({"turn": float("nan")}, ("turn",))


@pytest.fixture(scope="module")
def seeing() -> tuple[LearnedEngine, list[Any]]:
    """An untrained model that looks at pictures, with a readout that was solved for, and other episodes."""
    lab = Lamp(pictures=True)
    episodes = [explore(lab, seed, 10) for seed in range(36)]
    config = replace_at(
        JepaConfig(inputs=(CAMERA.name,), latent_size=128),
        {"encoder.channels": 32, "encoder.width": 256, "predictor.width": 16},
    )
    torch.manual_seed(0)
    model = Jepa(schema=lab.schema, config=config)
    frames = np.concatenate([one.observations[CAMERA.name] for one in episodes[:26]])
    told = np.concatenate([np.concatenate([one.observations[n] for n in HEATS], -1) for one in episodes[:26]])
    encoder = model.encoder.images[0]
    encoder.fit(torch.as_tensor(frames)[None], torch.ones(1, len(frames), dtype=torch.bool))
    with torch.no_grad():
        encoder(torch.as_tensor(frames), torch.ones(len(frames), dtype=torch.bool))
        model.eval()
        latents = encoder(torch.as_tensor(frames), torch.ones(len(frames), dtype=torch.bool))
    readout = Readout(ReadoutConfig(latent_size=128, signals=tuple(lab.schema[name] for name in HEATS), width=8))
    known = torch.ones(told.shape, dtype=torch.bool)
    rows = torch.arange(len(latents)) % 5 == 0
    readout.fit_linear(latents, torch.as_tensor(told), known, rows, whole=True)
    engine = LearnedEngine(
        model=model,
        schema=lab.schema,
        inputs=(CAMERA.name,),
        heads=by_name(readout, MahalanobisScore(MahalanobisConfig(latent_size=128))),
    )
    return engine, episodes[26:]


def test_who_reads_pictures_well_is_told_from_who_does_not(seeing: tuple[LearnedEngine, list[Any]]) -> None:
    engine, episodes = seeing
    good = read_from(episodes, engine, HEATS)
    assert min(good.values()) > MIN_R2
    assert unread(good, HEATS) == ""
    shuffled = [
        replace(one, observations={**one.observations, CAMERA.name: other.observations[CAMERA.name]})
        for one, other in zip(episodes, episodes[1:] + episodes[:1], strict=True)
    ]
    bad = read_from(shuffled, engine, HEATS)
    assert max(bad.values()) < 0.5
    assert all(name in unread(bad, HEATS) for name in HEATS)


def test_what_is_not_told_or_cannot_be_cut_is_unreadable(seeing: tuple[LearnedEngine, list[Any]]) -> None:
    engine, episodes = seeing
    assert read_from(episodes, engine, ("speed",)) == {"speed": -np.inf}
    assert read_from([], engine, HEATS) == dict.fromkeys(HEATS, -np.inf)
    assert read_from([explore(Lamp(pictures=True), 0, 2)], engine, HEATS) == dict.fromkeys(HEATS, -np.inf)


def test_a_world_that_takes_vectors_reads_nothing_from_pictures() -> None:
    """It is blind here, however well it would read what it is not shown."""
    lab = HiddenMover(pictures=True)
    config = JepaConfig(
        inputs=("puck_position",), latent_size=16, signal_weight=1.0, encoder=ObservationEncoderConfig(width=8)
    )
    model = Jepa(schema=lab.schema, config=config).eval()
    readout = Readout(ReadoutConfig(latent_size=16, signals=(lab.schema["puck_position"],), width=8))
    engine = LearnedEngine(
        model=model,
        schema=lab.schema,
        inputs=("puck_position",),
        heads=by_name(readout, MahalanobisScore(MahalanobisConfig(latent_size=16))),
    )
    found = read_from([explore(lab, seed, 8) for seed in range(6)], engine, ("puck_position",))
    assert found["puck_position"] <= 0.1


@dataclass(frozen=True, kw_only=True)
class Reader(ExamSubject):
    """Persistence, which says that it reads this well."""

    reads: Mapping[str, float] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return "reader"

    def learn(self, store: Store, *, seed: int, terms: Terms, folder: Path) -> LearnedWorld:
        self.asked.append(terms.read)
        engine = Persistence.fit([store.episode(0)], store.schema)
        return LearnedWorld(world=LocalWorld(engine, None, CrossEntropy()), facts={}, reads=self.reads)


OPTIONS = ExamOptions(tests=("C3",), pixels=True, sizes={"num_scenes": 10, "num_steps": 2})


@pytest.fixture
def few_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldline_exam.exam_tests.spurious_channel.NUM_EPISODES", 16)
    monkeypatch.setattr("worldline_exam.exam_tests.spurious_channel.EPISODE_STEPS", 16)


@pytest.mark.slow
@pytest.mark.usefixtures("few_logs")
def test_an_exam_of_pictures_asks_who_reads_and_nobody_else(tmp_path: Path) -> None:
    bad = Reader(reads={**dict.fromkeys(HEATS, 0.95), HEATS[1]: 0.72})
    (found,) = exam(bad, tmp_path / "bad", OPTIONS).tests
    assert found.verdict is Verdict.UNREADABLE
    assert f"{HEATS[1]} 0.72" in found.seeds[0].reason
    assert bad.asked == [HEATS]
    (found,) = exam(Reader(reads=dict.fromkeys(HEATS, 0.95)), tmp_path / "good", OPTIONS).tests
    assert found.verdict not in (Verdict.UNREADABLE, Verdict.ERROR)
    stored = read_exam(tmp_path / "good").result
    assert stored.facts["Seen"] == "pictures"
    assert "pictures" in (tmp_path / "good" / "report.html").read_text()


@pytest.mark.usefixtures("few_logs")
def test_trivial_models_do_not_look_at_pictures(tmp_path: Path) -> None:
    (found,) = exam(TrivialSubject(name="persistence"), tmp_path / "still", OPTIONS).tests
    assert found.verdict is Verdict.UNREADABLE
    assert "needs vector observations" in found.seeds[0].reason


def test_in_an_exam_of_vectors_nothing_has_to_be_read(tmp_path: Path, few_logs: None) -> None:
    subject = Reader()
    (found,) = exam(subject, tmp_path / "vectors", replace(OPTIONS, pixels=False)).tests
    assert subject.asked == [()]
    assert found.verdict is not Verdict.UNREADABLE
