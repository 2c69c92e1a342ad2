"""Sessions that a service keeps answer like `Session`, and lost answers add nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from tests.served_world import serving_world
from tests.world.test_remote import GOAL, PUSH
from tests.world.test_wire import difference

from worldline.episode import Episode
from worldline.errors import InputError, UnavailableError, UnknownNameError
from worldline.serve.database import Database
from worldline.serve.tables import sessions
from worldline.world.local import LocalWorld
from worldline.world.remote import RemoteSession, RemoteWorld
from worldline.world.session import Session


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path_factory.mktemp('service') / 'service.sqlite'}") as found:
        yield found


@pytest.fixture(scope="module")
def url(world: LocalWorld, database: Database) -> Iterator[str]:
    with serving_world(world, database=database) as found:
        yield found


@pytest.fixture
def client(url: str) -> Iterator[RemoteWorld]:
    with RemoteWorld(url) as found:
        yield found


def observe(session: Any, episode: Episode, step: int) -> None:
    observations = {name: value[step] for name, value in episode.observations.items()}
    session.observe(observations, actions={n: v[step - 1] for n, v in episode.actions.items()} if step else None)


def answers(session: Any) -> dict[str, object]:
    return {
        "prediction": session.predict(PUSH, num_samples=2),
        "plan": replace(session.plan(GOAL, horizon=3, seed=2), elapsed_s=0.0),
        "alarms": session.alarms,
        "widening": dict(session.widening),
    }


SETTINGS: dict[str, Any] = {"num_kept": 20, "level": 0.8, "horizon": 2, "rate": 0.3, "patience": 20.0}


def test_it_answers_like_a_local_session(client: RemoteWorld, world: LocalWorld, fresh: list[Episode]) -> None:
    local, remote = Session(world, **SETTINGS), client.session(**SETTINGS)
    for step in range(8):
        observe(local, fresh[0], step)
        observe(remote, fresh[0], step)
        assert remote.step == step + 1
    assert difference(answers(remote), answers(local)) is None
    assert any(width != 1 for width in remote.widening.values())
    remote.close()


def test_a_fork_continues_by_itself(client: RemoteWorld, fresh: list[Episode]) -> None:
    first = client.session()
    observe(first, fresh[0], 0)
    second = first.fork()
    observe(second, fresh[0], 1)
    assert (first.step, second.step) == (1, 2)
    before = first.predict(PUSH)
    first.close()
    first.close()
    with pytest.raises(UnknownNameError, match="session"):
        first.predict(PUSH)
    assert difference(second.predict(PUSH), before) is not None


def lose_answers(client: RemoteWorld, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Loses the answer to the next request as often as the list says; the service gets each request."""
    left = [0]
    send = client._send

    def lost(*request: Any, **options: Any) -> object:
        reply = send(*request, **options)
        left[0] -= 1
        return httpx.ReadError("lost") if left[0] >= 0 else reply

    monkeypatch.setattr(client, "_send", lost)
    return left


def test_a_lost_answer_adds_nothing_twice(
    client: RemoteWorld, database: Database, fresh: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def num_sessions() -> int:
        return database.read(lambda one: one.execute(select(func.count()).select_from(sessions)).scalar_one())

    losses, before = lose_answers(client, monkeypatch), num_sessions()
    losses[0] = 2
    first = client.session()
    assert num_sessions() == before + 1
    losses[0] = 2
    observe(first, fresh[0], 0)
    assert first.step == 1
    losses[0] = 1
    second = first.fork()
    assert num_sessions() == before + 2
    losses[0] = 3
    with pytest.raises(UnavailableError, match="lost"):
        observe(second, fresh[0], 1)
    assert second.step == 1
    observe(second, fresh[0], 1)
    assert second.step == 2
    losses[0] = 1
    second.close()
    assert num_sessions() == before + 1


def test_a_step_that_another_client_added_is_an_error(url: str, fresh: list[Episode]) -> None:
    with RemoteWorld(url) as remote, remote.session() as one:
        other = RemoteSession(remote, one._view)
        observe(one, fresh[0], 0)
        observe(other, fresh[0], 0)  # the same step again
        observe(one, fresh[0], 1)
        with pytest.raises(InputError, match="step is 1, expected 2"):
            observe(other, fresh[1], 1)


def test_with_ends_a_session(client: RemoteWorld) -> None:
    with client.session() as session:
        pass
    with pytest.raises(UnknownNameError):
        session.fork()
