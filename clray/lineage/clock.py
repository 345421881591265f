"""The time as records hold it."""

from __future__ import annotations

import datetime


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
