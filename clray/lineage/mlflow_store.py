"""The way to MLflow: which URIs are taken, whether the server answers, and errors in clear words."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from clray.errors import StorageError, TrackingError
from clray.lineage.store import Store

ARTIFACTS = "mlartifacts"
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
BOUNDED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}
"""MLflow itself would ask a dead server for minutes, and would create again what a server made whose answer was lost:
`clray.lineage.delivery` tries again instead, and looks first."""
CHATTY = {
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.WARNING,
    "mlflow.system_metrics": logging.CRITICAL,
}
"""How much these may say. What MLflow's monitor of the machine says of a dead server holds its URI with credentials."""

_USER_INFO = re.compile(r"""(?<=://)[^/?#\s"'<>]*@""")
_SECRET = re.compile(
    r"""([?&][^=&\s"'<>]*(?:key|secret|token|passw|pwd|credential|signature)[^=&\s"'<>]*=)[^&\s"'<>#]+""",
    re.I,
)

Method = TypeVar("Method", bound=Callable[..., Any])


def redact(text: str) -> str:
    """`text` with user info and secret query values of the URIs in it replaced by `***`."""
    return _SECRET.sub(r"\1***", _USER_INFO.sub("***@", text))


def default_tracking(store: Store) -> str:
    """Tracking URI of the SQLite file inside a local store; StorageError for a store that is not local."""
    if not store.local:
        raise StorageError(
            f"storage '{redact(store.root)}' is remote, and no MLflow tracking URI is given: a SQLite file cannot "
            "lie there. Start an MLflow server (see mlflow/README.md) and give tracking=http://HOST:5000, or "
            "tracking=sqlite:////FOLDER/mlflow.db on a disk of this machine."
        )
    return f"sqlite:///{store.path('mlflow.db')}"


def sqlite_file(uri: str) -> Path | None:
    """Absolute path of the SQLite file that a tracking URI names; None for a server."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]).absolute()


def artifacts_beside(uri: str, stream: str) -> str | None:
    """Folder for the artifacts of a stream beside its SQLite file, as a URI; None where the server decides."""
    file = sqlite_file(uri)
    return None if file is None else (file.parent / ARTIFACTS / stream).as_uri()


def library() -> Any:
    """The module `mlflow`, imported on first use; StorageError where it is missing or something else.

    Without MLflow, a folder named `mlflow` on the path is imported as an empty module instead. MLflow's
    telemetry is off unless MLFLOW_DISABLE_TELEMETRY says otherwise, and it prints nothing to stdout. A request ends
    after 15 s and is not repeated, unless the environment says otherwise.
    """
    for name, value in (QUIET | BOUNDED).items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as error:
        raise StorageError(f"MLflow is not installed ({error}). Install it: pip install 'mlflow>=3.13,<4'.") from error
    if not hasattr(mlflow, "MlflowClient"):
        raise StorageError(
            "MLflow is not installed, or a folder or file named 'mlflow' stands before it on the Python path. "
            "Install it: pip install 'mlflow>=3.13,<4'; and keep Python files out of folders named mlflow."
        )
    for name, level in CHATTY.items():
        logging.getLogger(name).setLevel(level)
    return mlflow


def check(uri: str) -> None:
    """Raises StorageError within seconds where `uri` cannot be used; makes the schema of a new SQLite file."""
    file = sqlite_file(uri)
    if file is None and not re.match(r"https?://[^/]", uri):
        raise StorageError(
            f"tracking '{redact(uri)}' is neither an MLflow server nor a SQLite file. Give "
            "tracking=http://HOST:5000 or tracking=sqlite:////FOLDER/mlflow.db."
        )
    with storage_errors(uri), _environment(QUICK):
        if file is not None:
            _probe(file)
        library().MlflowClient(uri, uri).search_experiments(max_results=1)


@contextlib.contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turns what MLflow raises when it cannot be reached or written into TrackingError, without secrets."""
    library()
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError, sqlite3.Error) as error:
        if getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE":
            raise
        reason = " ".join(str(error).split()).rpartition("(Caused by ")[2].removesuffix(")")
        what = redact(reason)[:400].rstrip(".")
        message = f"MLflow at '{redact(uri)}' cannot be used: {what}. {_mend(uri)}"
        raise TrackingError(message, what, refused=_refused(error)) from None


def _refused(error: Exception) -> bool:
    """Whether the server answered, and will answer the same again: no right, no such thing, a bad request."""
    status = getattr(error, "get_http_status_code", None)
    return status is not None and 400 <= status() < 500 and status() not in (408, 429)


@contextlib.contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Makes `uri` MLflow's global tracking URI for one call, and puts the one before back.

    To register a `models:/` source, MLflow's SQL store looks the model up at the global URI (seen in 3.17).
    """
    mlflow = library()
    before = mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


def translated(method: Method) -> Method:
    """`method` of an object with a `tracking_uri`, run inside `storage_errors`."""

    @functools.wraps(method)
    def inside(self: Any, *args: Any, **kwargs: Any) -> Any:
        with storage_errors(self.tracking_uri):
            return method(self, *args, **kwargs)

    return cast(Method, inside)


def _probe(file: Path) -> None:
    """Raises where the file cannot be written, or is no database: MLflow itself would retry for minutes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file, timeout=5)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("SELECT count(*) FROM sqlite_master")
        database.rollback()


def _mend(uri: str) -> str:
    if sqlite_file(uri):
        return "Make the file and its folder writable, or give another with tracking=URI."
    return (
        "Start the server (see mlflow/README.md), correct tracking=URI, or leave it out to keep a SQLite file in "
        "the storage folder. What is trained is in the store: the same command goes on from there."
    )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
