"""Which chat endpoint is asked, and when one that a bundle names may be.

A bundle may come from a stranger, and names an address. Two things must not follow from opening it: that the signals
which are put to the world are sent there, and that a secret of the environment is. So an endpoint that was read from a
bundle is asked only where the user listed its origin in the environment variable `WORLDLINE_LANGUAGE_HOSTS`:

    WORLDLINE_LANGUAGE_HOSTS="https://api.example.com=EXAMPLE_KEY, http://localhost:8000"

Each entry is an origin (scheme, host, port) and, where a key is due, the environment variable that holds the key *for
that origin*. The variable that the bundle names is never read: the key that is sent is the one that the user bound to
this origin, over this scheme. An `Endpoint` that the user's own code builds is that code's word, and needs no entry.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from worldline.errors import BundleError, ConfigError

HOSTS_VARIABLE = "WORLDLINE_LANGUAGE_HOSTS"
"""The environment variable that lists the origins which bundles may use."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that are this machine: no proxy stands before them."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible chat endpoint, and how it is asked. Holds no secret.

    Args:
        base_url: up to `/chat/completions`, such as "https://api.example.com/v1"; http or https.
        model: the name that the server knows it by.
        api_key_env: the environment variable that holds the key, read anew for every request; None where none is due.
        temperature: of the draws; 0 for the likeliest answer, always the same.
        max_tokens: most tokens of an answer; None leaves the parameter out, for servers that refuse it.
        timeout_s: seconds without a byte after which a request is given up.
        num_retries: how often a request is repeated that failed or was answered badly, 0 to 20.
        price_per_million_input_tokens: what the provider charges, in `currency`.
        price_per_million_output_tokens: likewise.
        currency: ISO 4217, such as "USD"; empty where the prices are 0.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    temperature: float = 1.0
    max_tokens: int | None = 1024
    timeout_s: float = 60.0
    num_retries: int = 3
    price_per_million_input_tokens: float = 0.0
    price_per_million_output_tokens: float = 0.0
    currency: str = ""

    def __post_init__(self) -> None:
        origin_of(self.base_url)
        if not self.model:
            raise ConfigError("model is empty. Give the name that the server knows the model by.")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # The value is not repeated: somebody may have put the key itself here.
            raise ConfigError("api_key_env is not the name of an environment variable. Give the name, not the key.")
        if not 0 <= self.temperature <= 2:
            raise ConfigError(f"temperature is {self.temperature}. Give a number from 0 to 2.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}. Give at least 1, or None.")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigError(f"timeout_s is {self.timeout_s}. Give a positive number of seconds.")
        if not 0 <= self.num_retries <= 20:
            raise ConfigError(f"num_retries is {self.num_retries}. Give a number from 0 to 20.")
        prices = (self.price_per_million_input_tokens, self.price_per_million_output_tokens)
        if not all(math.isfinite(price) and price >= 0 for price in prices):
            raise ConfigError(f"the prices are {prices}. Give numbers that are at least 0.")
        if self.has_price != bool(re.fullmatch("[A-Z]{3}", self.currency)):
            raise ConfigError(f"prices {prices} in currency {self.currency!r}. Give both, the currency as in 'USD'.")

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin_of(self.base_url)

    @property
    def url(self) -> str:
        """What is posted to."""
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine."""
        return urlsplit(self.base_url).hostname in LOOPBACK

    @property
    def has_price(self) -> bool:
        """Whether a token costs anything."""
        return self.price_per_million_input_tokens + self.price_per_million_output_tokens > 0

    def price_of(self, input_tokens: int, output_tokens: int) -> float:
        """What so many tokens cost, in `currency`."""
        rates = self.price_per_million_input_tokens, self.price_per_million_output_tokens
        return (input_tokens * rates[0] + output_tokens * rates[1]) / 1e6


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL, such as "https://api.example.com:443".

    Raises:
        ConfigError: it is no http or https URL, or holds a user name, a password, a query or a fragment.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"base_url cannot be read ({error}). Give one such as https://api.example.com/v1.") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # The URL is not repeated, since it may hold a secret.
        raise ConfigError("base_url holds a user name, password, query or fragment. Give the key by api_key_env.")
    if parts.scheme not in _PORTS or not parts.hostname or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ConfigError(f"base_url is {url!r}. Give an http or https URL, such as https://api.example.com/v1.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}"


def listed_variable(endpoint: Endpoint) -> str | None:
    """The environment variable with the key that the user bound to the endpoint's origin; None where no key is due.

    Raises:
        BundleError: the user did not list the origin, or no variable with it where the endpoint wants a key.
        ConfigError: the list cannot be read.
    """
    listed = _listed()
    wants = "=VARIABLE" if endpoint.api_key_env is not None else ""
    hint = f"Set {HOSTS_VARIABLE} to {endpoint.origin}{wants}"
    if endpoint.origin not in listed:
        raise BundleError(
            f"this world comes from a bundle and would send what it is shown to {endpoint.origin}. {hint} if you trust "
            f"that address{', VARIABLE being the environment variable with your key for it' if wants else ''}."
        )
    variable = listed[endpoint.origin]
    if wants and variable is None:
        raise BundleError(f"{endpoint.origin} wants a key, and it is listed without one. {hint}, with your variable.")
    return variable


def _listed() -> dict[str, str | None]:
    """Per origin that the user listed, the variable with its key."""
    listed: dict[str, str | None] = {}
    for entry in re.split(r"[,\s]+", os.environ.get(HOSTS_VARIABLE, "")):
        if not entry:
            continue
        url, _, variable = entry.partition("=")
        if variable and not _VARIABLE.fullmatch(variable):
            raise ConfigError(f"{HOSTS_VARIABLE}: what follows {url}= is not the name of an environment variable.")
        try:
            listed[origin_of(url)] = variable or None
        except ConfigError as error:
            raise ConfigError(f"{HOSTS_VARIABLE} has an entry that is no origin such as https://host:8000.") from error
    return listed


def key_in(variable: str) -> str:
    """The key that an environment variable holds.

    Raises:
        ConfigError: it is not set, or holds what no key does. The value is never told.
    """
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]+", key):
        held = "holds something that is no key" if key else "is not set"
        raise ConfigError(f"the environment variable {variable} {held}. Put the endpoint's key into it.")
    return key
