"""Tokens of services. Each belongs to the origin for which the user stored it: no file and no URL can ask for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from worldline.engines.language.endpoint import origin_of
from worldline.errors import ConfigError

TOKEN_VARIABLE: Final = "WORLDLINE_TOKEN"
"""The environment variable with the token for the service of `WORLDLINE_URL`. It is not used without that one."""
URL_VARIABLE: Final = "WORLDLINE_URL"
"""The environment variable with the URL of the service that gets the token of `WORLDLINE_TOKEN`."""


def login_file() -> Path:
    """The file of stored tokens: `worldline/logins.json` in the user's configuration folder."""
    config = Path(os.environ.get("XDG_CONFIG_HOME", ""))  # the XDG specification ignores relative paths
    return (config if config.is_absolute() else Path.home() / ".config") / "worldline" / "logins.json"


def token_for(origin: str) -> str:
    """The token that the user stored for an origin; empty for none.

    `WORLDLINE_TOKEN` counts for the origin of `WORLDLINE_URL` only, and comes before stored tokens.

    Args:
        origin: as in `origin_of`.

    Raises:
        ConfigError: the file of stored tokens is damaged, or `WORLDLINE_URL` is not a URL of a server.
    """
    url, token = os.environ.get(URL_VARIABLE), os.environ.get(TOKEN_VARIABLE)
    if url and token and origin_of(url, URL_VARIABLE) == origin:
        return token
    return _stored().get(origin, "")


def store_token(origin: str, token: str) -> None:
    """Stores the token for an origin, or removes it if `token` is empty. Only the user can read the file.

    Raises:
        ConfigError: the file of stored tokens is damaged.
    """
    known, path = {**_stored(), origin: token}, login_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{os.getpid()}.partial")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(msgspec.json.encode({place: secret for place, secret in known.items() if secret}))
    fresh.replace(path)


def _stored() -> dict[str, str]:
    path = login_file()
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is damaged: {error}. Delete it, and store the tokens again.") from error
