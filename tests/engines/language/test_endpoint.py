from __future__ import annotations

from typing import Any

import pytest

from worldline.engines.language.endpoint import HOSTS_VARIABLE, Endpoint, key_in, listed_variable, origin_of
from worldline.errors import BundleError, ConfigError

SECRET = "sk-0123456789"


def endpoint(**settings: Any) -> Endpoint:
    return Endpoint(**{"base_url": "https://api.example.com/v1", "model": "m", **settings})


def test_loopback_is_recognised() -> None:
    assert endpoint(base_url="http://localhost:8000").is_loopback
    assert not endpoint().is_loopback


@pytest.mark.parametrize(("url", "origin"), [
    ("https://API.example.com/v1", "https://api.example.com:443"),
    ("http://api.example.com", "http://api.example.com:80"),
    ("https://api.example.com:8443/a/b", "https://api.example.com:8443"),
    ("http://[::1]:8000", "http://[::1]:8000"),
])  # fmt: skip
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert (origin_of(url), origin_of(origin)) == (origin, origin)


@pytest.mark.parametrize(("settings", "word"), [
    ({"base_url": "ftp://api.example.com"}, "http or https"),
    ({"base_url": "http://a:port"}, "cannot be read"),
    ({"model": ""}, "model"),
    ({"api_key_env": "A-B"}, "api_key_env"),
    ({"temperature": -0.1}, "temperature"),
    ({"timeout_s": 0.0}, "timeout_s"),
    ({"num_retries": 21}, "num_retries"),
    ({"price_per_million_input_tokens": -1.0, "currency": "USD"}, "price_per_million_input_tokens"),
    ({"currency": "USD"}, "currency"),
])  # fmt: skip
def test_what_cannot_be_is_refused(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        endpoint(**settings)


@pytest.mark.parametrize("settings", [
    {"base_url": f"https://me:{SECRET}@api.example.com"},
    {"base_url": f"https://api.example.com/v1?key={SECRET}"},
    {"base_url": f"https://api.example.com/v1#{SECRET}"},
    {"api_key_env": SECRET},
])  # fmt: skip
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refusal:
        endpoint(**settings)
    assert SECRET not in str(refusal.value)


def test_the_user_binds_a_variable_to_an_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, "https://api.example.com=MY_KEY, http://localhost:8000")
    assert listed_variable(endpoint()) == "MY_KEY"
    # The variable that the bundle names is never the one that is read.
    assert listed_variable(endpoint(api_key_env="OTHER_SECRET")) == "MY_KEY"
    assert listed_variable(endpoint(base_url="http://localhost:8000/v1")) is None


@pytest.mark.parametrize("base_url", [
    "https://evil.example.com/v1",
    "http://api.example.com/v1",  # the same host, without encryption
    "https://api.example.com:444/v1",
    "https://api.example.com.evil.com/v1",
])  # fmt: skip
def test_an_origin_that_is_not_listed_is_refused(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, "https://api.example.com=MY_KEY")
    with pytest.raises(BundleError, match=HOSTS_VARIABLE):
        listed_variable(endpoint(base_url=base_url))


def test_without_a_list_nothing_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOSTS_VARIABLE, raising=False)
    with pytest.raises(BundleError, match=r"https://api\.example\.com:443=VARIABLE"):
        listed_variable(endpoint(api_key_env="OTHER_SECRET"))


def test_where_a_key_is_due_the_list_must_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, "https://api.example.com")
    assert listed_variable(endpoint()) is None
    with pytest.raises(BundleError, match="wants a key"):
        listed_variable(endpoint(api_key_env="OTHER_SECRET"))


@pytest.mark.parametrize("listed", ["api.example.com", "https://api.example.com=A-B", "https://me:pw@api.example.com"])
def test_a_list_that_cannot_be_read_is_refused(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOSTS_VARIABLE, listed)
    with pytest.raises(ConfigError, match=HOSTS_VARIABLE):
        listed_variable(endpoint())


@pytest.mark.parametrize(("held", "word"), [("", "not set"), (f"{SECRET}\nX-Evil: 1", "no key"), ("ключ", "no key")])
def test_what_is_no_key_is_refused_and_not_repeated(held: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", held)
    with pytest.raises(ConfigError, match=word) as refusal:
        key_in("MY_KEY")
    assert not held or held not in str(refusal.value)
    monkeypatch.setenv("MY_KEY", f"{SECRET}\n")
    assert key_in("MY_KEY") == SECRET
