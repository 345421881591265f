"""The way to a cluster's job server: found, shown the token, waited for while it comes up."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from clray.errors import ResourceError, UserError
from clray.lineage.ledger import redact
from clray.ray_client import MODE, TOKEN_PATH, offer_token, token_present

Result = TypeVar("Result")
Say = Callable[[str], None]

PAUSE_SECONDS = 1.0
CHATTY = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


def address_of(address: str | None) -> str:
    """The job server's URL: the given one, else that of RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    found = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not found:
        raise UserError(
            "no cluster is named: give --address http://HEAD:8265 (the URL of Ray's dashboard), or set "
            "RAY_API_SERVER_ADDRESS"
        )
    return found if "://" in found or found == "auto" else f"http://{found}"


def connect(address: str, patience: float, say: Say) -> Any:
    """The `JobSubmissionClient` of the job server, which is waited for up to `patience` seconds."""
    offer_token()
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _address_wins(address):
        return patiently(lambda: JobSubmissionClient(address), address, patience, say)


def patiently(call: Callable[[], Result], address: str, patience: float, say: Say) -> Result:
    """What `call` returns; tried again for up to `patience` seconds while the job server or its agent comes up.

    Raises ResourceError where it does not, and UserError where the cluster refuses the token.
    """
    from ray.exceptions import AuthenticationError

    deadline, said = time.monotonic() + patience, False
    while True:
        try:
            return call()
        except AuthenticationError as error:
            raise _refused(address, str(error)) from None
        except Exception as error:
            reason = _passing(error)
            if not reason and isinstance(error, RuntimeError):  # what Ray's client makes of an answer
                raise UserError(f"the job server at {redact(address)} refused: {_last_line(error)}") from error
            if not reason:
                raise
            if time.monotonic() >= deadline:
                raise ResourceError(
                    f"the job server at {redact(address)} does not answer after {patience:g} s: {reason}. Is it the "
                    "URL of the head's dashboard (port 8265 by default), and is the cluster up? Ray needs "
                    "ray[default] on the head; --patience SECONDS waits longer"
                ) from error
        if not said:
            say(f"waiting up to {patience:g} s for the job server at {redact(address)}: {reason}")
            said = True
        time.sleep(PAUSE_SECONDS)


def _passing(error: Exception) -> str:
    """Why it may go better in a moment, in one line; nothing where it will not."""
    import aiohttp
    import requests

    if isinstance(error, ConnectionError | requests.ConnectionError | requests.Timeout):
        return "it cannot be reached"
    if isinstance(error, aiohttp.ClientError):
        return "the connection was lost"
    status = re.search(r"status code (5\d\d)|^(5\d\d) Server Error|WebSocket connection closed", str(error))
    if status and "already exists" not in str(error):
        return _last_line(error)
    return ""


def _last_line(error: Exception) -> str:
    return redact(str(error).strip().splitlines()[-1])[:300]


def _refused(address: str, message: str) -> UserError:
    if message.startswith("Authentication failed"):
        return UserError(
            f"the cluster at {redact(address)} does not accept the token: it is another cluster's. Put this one's "
            f"into ~/.ray/auth_token, or into the file that {TOKEN_PATH} names"
        )
    found = f"{MODE}={os.environ.get(MODE)} keeps the token back; unset it" if token_present() else "there is none here"
    return UserError(
        f"the cluster at {redact(address)} asks for a token, and {found}. The token is on its head: `ray "
        f"get-auth-token` prints it. Put it into ~/.ray/auth_token, or into a file that {TOKEN_PATH} names"
    )


@contextlib.contextmanager
def _address_wins(address: str) -> Iterator[None]:
    """Ray's client prefers addresses of the environment to the one that it is given."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
