"""The chat endpoint, and the list of endpoints that bundles may contact.

A bundle names an address and may come from an untrusted source. Opening it must not send signals or secrets to that
address. So an endpoint from a bundle is contacted only if the user listed its origin in the environment variable
`WORLDLINE_LANGUAGE_HOSTS`:

    WORLDLINE_LANGUAGE_HOSTS="https://api.example.com=EXAMPLE_KEY, http://localhost:8000"

Each entry is an origin (scheme, host, port). If the endpoint needs a key, the entry also names the environment variable
that holds the key *for that origin*. The variable that the bundle names is never read. An `Endpoint` that user code
builds needs no entry.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from worldline.config import BoundedConfig, Bounds
from worldline.errors import BundleError, ConfigError

HOSTS_VARIABLE = "WORLDLINE_LANGUAGE_HOSTS"
"""The environment variable that lists the origins that bundles may contact."""

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_Price = Annotated[float, Bounds(at_least=0, below=math.inf)]
_PORTS = {"http": 80, "https": 443}
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, which are contacted without a proxy."""


@dataclass(frozen=True, kw_only=True)
class Endpoint(BoundedConfig):
    """An OpenAI-compatible chat endpoint and its request settings. Holds no secret.

    Args:
        base_url: the URL before `/chat/completions`, such as "https://api.example.com/v1"; http or https.
        model: name of the model on the server.
        api_key_env: environment variable that holds the key, read for every request; None if no key is needed.
        temperature: of the draws, 0 to 2; 0 for the most likely answer.
        max_tokens: limit on the tokens of an answer; None leaves the parameter out, for servers that reject it.
        timeout_s: seconds without data after which a request fails.
        num_retries: repetitions of a request that failed or had an invalid answer, 0 to 20.
        price_per_million_input_tokens: what the provider charges, in `currency`.
        price_per_million_output_tokens: what the provider charges, in `currency`.
        currency: ISO 4217 code, such as "USD"; empty if the prices are 0.
    """

    base_url: str
    model: str
    api_key_env: str | None = None
    temperature: Annotated[float, Bounds(at_least=0, at_most=2)] = 1.0
    max_tokens: int | None = 1024
    timeout_s: Annotated[float, Bounds(above=0, below=math.inf)] = 60.0
    num_retries: Annotated[int, Bounds(at_least=0, at_most=20)] = 3
    price_per_million_input_tokens: _Price = 0.0
    price_per_million_output_tokens: _Price = 0.0
    currency: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        origin_of(self.base_url)
        if not self.model:
            raise ConfigError("model is empty. Give the name of the model on the server.")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            # The value is left out of the message: it may be the key itself.
            raise ConfigError("api_key_env is not the name of an environment variable. Give the name, not the key.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}. Give at least 1, or None.")
        if self.has_price != bool(re.fullmatch("[A-Z]{3}", self.currency)):
            raise ConfigError(f"currency is {self.currency!r}. Give prices and a currency as in 'USD', or neither.")

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return origin_of(self.base_url)

    @property
    def title(self) -> str:
        """Model and origin, for messages."""
        return f"{self.model!r} at {self.origin}"

    @property
    def is_loopback(self) -> bool:
        """Whether the endpoint is on this machine."""
        return urlsplit(self.base_url).hostname in LOOPBACK

    @property
    def has_price(self) -> bool:
        """Whether tokens have a price."""
        return self.price_per_million_input_tokens + self.price_per_million_output_tokens > 0

    def price_of(self, input_tokens: int, output_tokens: int) -> float:
        """The price of these tokens, in `currency`."""
        rates = self.price_per_million_input_tokens, self.price_per_million_output_tokens
        return (input_tokens * rates[0] + output_tokens * rates[1]) / 1e6


def origin_of(url: str, name: str = "base_url") -> str:
    """Scheme, host and port of a URL, such as "https://api.example.com:443".

    Args:
        url: an http or https URL without user name, password, query and fragment.
        name: of the setting, for messages.

    Raises:
        ConfigError: it is another URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{name} cannot be read ({error}). Give one such as https://api.example.com/v1.") from error
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # The URL is left out of the message: it may hold a secret.
        raise ConfigError(f"{name} holds a user name, password, query or fragment. Leave it out.")
    if parts.scheme not in _PORTS or not parts.hostname or re.search(r"[\s\\\x00-\x1f\x7f]", url):
        raise ConfigError(f"{name} is {url!r}. Give an http or https URL, such as https://api.example.com/v1.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}"


def listed_variable(endpoint: Endpoint) -> str | None:
    """The environment variable with the key that the user listed for the endpoint's origin; None if no key is needed.

    Raises:
        BundleError: the user did not list the origin, or listed it without a variable although a key is needed.
        ConfigError: the list cannot be read.
    """
    listed: dict[str, str | None] = {}
    for entry in os.environ.get(HOSTS_VARIABLE, "").replace(",", " ").split():
        url, _, name = entry.partition("=")
        try:
            listed[origin_of(url)] = name or None
        except ConfigError as error:
            raise ConfigError(f"{HOSTS_VARIABLE} has an entry that is no origin such as https://host:8000.") from error
        if name and not _VARIABLE.fullmatch(name):
            raise ConfigError(f"{HOSTS_VARIABLE}: the text after {url}= is no name of an environment variable.")
    needed = endpoint.api_key_env is not None
    hint = f"Set {HOSTS_VARIABLE} to {endpoint.origin}{'=VARIABLE' if needed else ''} if you trust that address"
    if endpoint.origin not in listed:
        raise BundleError(
            f"this world comes from a bundle and would send its inputs to {endpoint.origin}. {hint}"
            f"{', where VARIABLE is the environment variable with your key for it' if needed else ''}."
        )
    variable = listed[endpoint.origin]
    if needed and variable is None:
        raise BundleError(f"{endpoint.origin} wants a key, and it is listed without one. {hint}, with your variable.")
    return variable


def key_in(variable: str) -> str:
    """The key in an environment variable.

    Raises:
        ConfigError: the variable is not set, or its value cannot be a key. The message does not hold the value.
    """
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]+", key):
        problem = "holds something that is no key" if key else "is not set"
        raise ConfigError(f"the environment variable {variable} {problem}. Set it to the endpoint's key.")
    return key
