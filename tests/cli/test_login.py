from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.running import failed, run
from tests.serve.scripted import linear_world
from tests.served_world import serving_world
from tests.world.test_remote_messages import SECRET, OneToken, Said, answering

import worldline
from worldline.errors import InputError, UnavailableError
from worldline.world.logins import TOKEN_VARIABLE, URL_VARIABLE, login_file
from worldline.world.remote import RemoteWorld


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_a_stored_token_is_checked_used_and_removed() -> None:
    with serving_world(linear_world(), tokens=OneToken()) as url:
        assert "does not accept the token" in failed("login", url, input="wl_abc_wrong\n")
        assert "no token was given" in failed("login", url, input="\n")
        assert not login_file().exists()
        said = run("login", url, input=f"{SECRET}\n").output
        assert "the token is stored" in said
        assert SECRET not in said
        assert worldline.open(url).describe().name == "linear"
        run("login", url, "--remove")
        with pytest.raises(InputError, match=r"needs a token\. Run: worldline login http://127"):
            worldline.open(url).describe()


def test_a_token_with_other_scopes_is_stored_too() -> None:
    with answering(Said(403)) as (url, _, headers):
        run("login", url, input=f"{SECRET}\n")
    assert [one["authorization"] for one in headers] == [f"Bearer {SECRET}"]


def test_an_address_without_a_service_gets_no_token() -> None:
    assert "cannot be reached" in failed("login", "http://127.0.0.1:9", input=f"{SECRET}\n")
    assert "the URL is 'worlds'" in failed("login", "worlds", input=f"{SECRET}\n")
    assert not login_file().exists()
    with pytest.raises(UnavailableError), RemoteWorld("http://127.0.0.1:9", token=SECRET, retries=0) as remote:
        remote.check_token()


def test_a_controller_file_chooses_no_host_for_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, SECRET)
    monkeypatch.setenv(URL_VARIABLE, "https://worlds.example.com")
    plan, goal = tmp_path / "plan.toml", tmp_path / "goal.toml"
    goal.write_text("targets = { position = 0.0 }\ntolerance = { position = 1.0 }\n")
    with answering(Said(404, "text/html")) as (url, _, headers):
        plan.write_text(f'kind = "plan"\nworld = "{url}/v1/worlds/toy"\nhorizon = 4\ngoal = "{goal}"\n')
        said = failed("run", plan, "--in", "two-rooms", "--out", tmp_path / "runs")
    assert "answered with status 404" in said
    assert [one.get("authorization") for one in headers] == [None]
