"""What a client of a cluster needs before it joins: the token is shown, and somebody answers at the address."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path

from clray.errors import ResourceError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
ANSWER_SECONDS = 10.0


def offer_token() -> None:
    """Makes this process show its token to Ray clusters, unless RAY_AUTH_MODE says what to do.

    Ray's clients do not switch it on by themselves, and answer 401 where a cluster asks for it (Ray 2.60).
    """
    if os.environ.get(MODE) or not token_present():
        return
    os.environ[MODE] = "token"
    if "ray" in sys.modules:  # Ray read the mode when it was imported
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def token_present() -> bool:
    """Whether there is a token where Ray looks: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    if os.environ.get(TOKEN):
        return True
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token").is_file()


def check_address() -> None:
    """Raises ResourceError where nobody answers at RAY_ADDRESS=HOST:PORT: Ray itself would try for minutes."""
    address = os.environ.get("RAY_ADDRESS", "")
    parts = re.fullmatch(r"([^:/]+):(\d+)", address)
    if parts is None:
        return
    try:
        socket.create_connection((parts[1], int(parts[2])), ANSWER_SECONDS).close()
    except OSError as error:
        raise ResourceError(
            f"no Ray cluster answers at RAY_ADDRESS={address}: {error}. Give HEAD:6379 of a cluster that is up, or "
            "unset RAY_ADDRESS to start a small one on this machine"
        ) from error
