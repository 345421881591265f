"""What goes to the cluster with a stream: the resolved stream, the local files that it names, clray's code.

A relative path of the stream is resolved here, on the submitter, and the file goes along under the same name, so
the stream means the same in the job. An absolute path is one of the cluster's, and nothing of it is sent. No other
file is sent, whatever lies beside the stream.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clray.data import sources
from clray.errors import DataError, ModelError, StorageError, UserError
from clray.lineage.key import digest
from clray.lineage.ledger import redact
from clray.lineage.store import file_digest
from clray.spec import loading
from clray.spec.replay import HuggingFaceEncoder, InsclReplay, ModelTagger, SentenceEncoder
from clray.spec.stream import Stream

STREAM_FILE = "clray-stream.yaml"
MODELS = (HuggingFaceEncoder, SentenceEncoder, ModelTagger)
LIMIT = 512 << 20
"""Bytes that Ray takes as one package: the limit of a message to its head node."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """The files of a submission by their names in the package, and the folder in it where the stream runs.

    `folder` is the submitter's working directory below the folder that all files have in common. `elsewhere` are
    the paths of the stream that are taken as the cluster's own.
    """

    folder: str
    stream_yaml: str
    files: dict[str, Path]
    elsewhere: tuple[str, ...]

    @property
    def stream_file(self) -> str:
        """Name of the resolved stream in the package."""
        return os.path.normpath(f"{self.folder}/{STREAM_FILE}")

    @property
    def digest(self) -> str:
        """Digest of all that is sent: same stream, same data, same code, same digest."""
        return digest(
            [self.stream_file, self.stream_yaml, {name: file_digest(self.files[name]) for name in self.files}], 12
        )

    @property
    def num_bytes(self) -> int:
        """Size of all that is sent, before it is packed."""
        return sum(path.stat().st_size for path in self.files.values())

    def write(self, path: Path) -> None:
        """Writes the package as a zip file, as Ray unpacks it on each node."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
            archive.writestr(self.stream_file, self.stream_yaml)
            for name, file in sorted(self.files.items()):
                archive.write(file, name)


def pack(stream: Stream, code: bool = True) -> Package:
    """The package of the stream, checked: what it names is there, fits, and holds no secret.

    With `code` the clray that runs here goes along, so that the job runs what was checked here. Raises UserError
    for a relative storage, a file that is not there or that `.rayignore` leaves out, too many bytes, or credentials.
    """
    _check_storage(stream)
    text = loading.to_yaml(stream)
    _check_secrets(text)
    here = Path.cwd()
    lines = [stream, *(loading.variant(stream, control) for control in stream.controls)]
    named = {path: find for line in lines for path, find in _paths(line)}
    local = {path: find(path) for path, find in named.items() if not _of_the_cluster(path)}
    _check_ignored(here, local)
    found = sorted({file for files in local.values() for file in files})
    root = Path(os.path.commonpath([here, *(file.parent for file in found)]))
    package = Package(
        folder=here.relative_to(root).as_posix(),
        stream_yaml=text,
        files={file.relative_to(root).as_posix(): file for file in found} | (_code() if code else {}),
        elsewhere=tuple(path for path in named if _of_the_cluster(path)),
    )
    _check_size(package)
    return package


def _paths(stream: Stream) -> Iterator[tuple[str, Callable[[str], list[Path]]]]:
    """The paths and URIs of the stream's data and models, each with what finds its files here."""
    data = [source.source for part in stream.stages for source in part.data]
    data += [source.source for part in stream.tasks for source in part.data]
    yield from ((source, _data_files) for source in data if not source.startswith(("builtin:", "hf:")))
    yield from ((task.include, _suite_files) for task in stream.tasks if task.include)
    for model in (stream.model.base, *_replay_models(stream)):
        if model.startswith((".", "/", "~")) or Path(model).is_dir():  # else a builtin one, or a name of the hub
            yield model, _model_files


def _replay_models(stream: Stream) -> Iterator[str]:
    """The models by which InsCL embeds and tags instructions."""
    for replay in (stream.method.replay, *(stage.method.replay for stage in stream.stages)):
        if isinstance(replay, InsclReplay):
            yield from (named.model for named in (replay.encoder, replay.tagger) if isinstance(named, MODELS))


def _of_the_cluster(path: str) -> bool:
    return "://" in path or path.startswith("~") or Path(path).is_absolute()


def _data_files(path: str) -> list[Path]:
    return [Path(os.path.abspath(file.info.path)) for file in sources.find_files(path)]


def _suite_files(path: str) -> list[Path]:
    folder = Path(os.path.abspath(path))
    if not folder.is_dir():
        raise DataError(f"include '{path}' is not a folder; the working directory is {Path.cwd()}")
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _model_files(path: str) -> list[Path]:
    folder = Path(os.path.abspath(path))
    if not folder.is_dir():
        raise ModelError(f"model '{path}' is not a folder; the working directory is {Path.cwd()}")
    inside = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".bin")
    return [file for file in inside if not any(part.startswith("checkpoint-") for part in file.parts[:-1])]


def _code() -> dict[str, Path]:
    """The files of the clray that runs here."""
    home = Path(__file__).parent.parent
    return {
        f"clray/{file.relative_to(home).as_posix()}": file
        for file in sorted(home.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def _check_storage(stream: Stream) -> None:
    storage, tracking = stream.storage, stream.tracking
    remote = "://" in storage
    if not remote and not Path(storage).is_absolute():
        raise StorageError(
            f"storage '{storage}' is relative: the job would keep its generations in a temporary folder of one node. "
            "Give storage=/FOLDER on a disk that every node mounts, or storage=s3://BUCKET/PATH"
        )
    if remote and not tracking and not storage.startswith("file://"):
        raise StorageError(
            f"storage '{redact(storage)}' is remote, and no MLflow tracking URI is given: a SQLite file cannot lie "
            "there. Start an MLflow server (see mlflow/README.md) and give tracking=http://HOST:5000"
        )
    if tracking and tracking.startswith("sqlite:///") and not tracking.startswith("sqlite:////"):
        raise StorageError(
            f"tracking '{tracking}' is a relative file: the job would keep it in a temporary folder of one node. "
            "Give tracking=http://HOST:5000, or tracking=sqlite:////FOLDER/mlflow.db on a disk that every node mounts"
        )


def _check_secrets(text: str) -> None:
    """Refuses credentials in URIs: whoever sees the job would see them."""
    for line in text.splitlines():
        if redact(line) != line:
            raise UserError(
                f"the stream holds credentials, which everyone who sees the job could read: '{redact(line.strip())}'. "
                "Put them into the environment and forward the variables by name: --env NAME"
            )


def _check_ignored(here: Path, local: dict[str, list[Path]]) -> None:
    """Refuses files that the submitter's `.rayignore` keeps from the cluster: the job would miss them."""
    ignore = here / ".rayignore"
    if not ignore.is_file():
        return
    from ray._private.thirdparty.pathspec import PathSpec

    rules = PathSpec.from_lines("gitwildmatch", ignore.read_text().splitlines())
    for path, files in local.items():
        left_out = [f for f in files if f.is_relative_to(here) and rules.match_file(str(f.relative_to(here)))]
        if left_out:
            raise UserError(
                f"'{path}': {len(left_out)} of its {len(files)} files (say {left_out[0].relative_to(here)}) are kept "
                f"from the cluster by {ignore}. Change that file, or put the data where the cluster reads it and give "
                "the absolute path or URI"
            )


def _check_size(package: Package) -> None:
    if package.num_bytes < LIMIT:
        return
    largest = sorted(package.files, key=lambda name: package.files[name].stat().st_size, reverse=True)[:3]
    sizes = ", ".join(f"{name} {package.files[name].stat().st_size >> 20:,} MiB" for name in largest)
    raise UserError(
        f"the files that the stream names by relative paths come to {package.num_bytes >> 20:,} MiB; at most "
        f"{LIMIT >> 20} MiB go along with a job. The largest: {sizes}. Put them where the cluster reads them and give "
        "the absolute path or URI"
    )
