from __future__ import annotations

import pickle
from importlib import metadata
from pathlib import Path

import pytest

from worldline import errors
from worldline.errors import (
    DataError,
    InputError,
    MissingExtraError,
    NoGoodAnswerError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    WorldlineError,
    install_command,
)

BASES = {
    "InputError": ValueError,
    "ConfigError": ValueError,
    "DataError": ValueError,
    "UnknownNameError": LookupError,
    "MissingExtraError": ImportError,
    "UnsupportedError": NotImplementedError,
    "UnreadableError": UnsupportedError,  # one kind of it, and so caught with it
    "CollapseError": ArithmeticError,
    "BundleError": ValueError,
    "StoppedError": RuntimeError,
    "UnavailableError": ConnectionError,
    "NoGoodAnswerError": UnavailableError,  # likewise
    "EngineError": NoGoodAnswerError,
}


def test_every_error_is_worldlines_own_and_the_fitting_builtin() -> None:
    found = {
        name: cls
        for name, cls in vars(errors).items()
        if isinstance(cls, type) and issubclass(cls, WorldlineError) and cls is not WorldlineError
    }
    assert found.keys() == BASES.keys()
    for name, cls in found.items():
        assert issubclass(cls, BASES[name])


def test_a_data_error_names_every_place_it_knows() -> None:
    error = DataError("NaN", fix="Drop it", file=Path("logs/a.npz"), episode=0, signal="x", step=3)
    assert str(error) == "logs/a.npz, episode 0, signal 'x', step 3: NaN. Drop it"
    assert (error.problem, error.fix, error.episode, error.signal, error.step) == ("NaN", "Drop it", 0, "x", 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cme", "no planner is called 'cme'. Did you mean 'cem'? Known: cem, shooting."),
        ("zzzzzz", "no planner is called 'zzzzzz'. Known: cem, shooting."),
    ],
)
def test_an_unknown_name_suggests_the_nearest_and_lists_all(name: str, message: str) -> None:
    assert str(UnknownNameError("planner", name, ["shooting", "cem"])) == message


def test_an_unknown_name_among_none_says_so() -> None:
    assert str(UnknownNameError("lab", "x", [])) == "no lab is called 'x'. Known: none."


@pytest.mark.parametrize(
    ("source", "extra", "exam"),
    [
        (None, "'worldline[envs]'", "worldline-exam"),
        ('{"url": "https://host/w.whl", "archive_info": {}}', "'worldline[envs]'", "worldline-exam"),
        ('{"url": "file:///a%20b", "dir_info": {"editable": true}}', "-e '/a b[envs]'", "-e '/a b/exam'"),
        ('{"url": "file:///clone", "dir_info": {}}', "'/clone[envs]'", "/clone/exam"),
    ],
)
def test_a_missing_extra_gives_the_pip_line(
    monkeypatch: pytest.MonkeyPatch, source: str | None, extra: str, exam: str
) -> None:
    monkeypatch.setattr(metadata.Distribution, "read_text", lambda self, name: source, raising=False)
    monkeypatch.setattr(metadata.PathDistribution, "read_text", lambda self, name: source)
    message = f"'lettuce_greenhouse_gym' is not installed. Run: pip install {extra}"
    assert str(MissingExtraError("lettuce_greenhouse_gym", "envs")) == message
    assert install_command() == f"pip install {exam}"


@pytest.mark.parametrize(
    "error",
    [
        DataError("it is torn", fix="Mend it.", file="a.npz", episode=3, signal="x", step=4),
        UnknownNameError("planner", "cm", ["cem", "shooting"]),
        MissingExtraError("av", "video"),
        InputError("no"),
    ],
)
def test_a_worker_process_can_send_its_error_home(error: WorldlineError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__
