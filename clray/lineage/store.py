"""The storage path: data, generations and scores as files, on a disk or in an object store.

    records/<digest>/     tokenised record sets          manifest.json committed last
    mixtures/<digest>/    packed shards                  manifest.json committed last
    generations/<key>/    weights/ and generation.json   generation.json committed last
                          optimiser/ where a stage carries its state, see train/carry.py; ewc/, see train/fisher.py
    logits/<digest>/      what teachers predict          manifest.json committed last
    scores/<key>/         one JSON file a task           each written whole
    pseudo/               samples of a generator         each written whole
    references/<digest>/  log p of preference pairs      manifest.json committed last
    knowledge/<digest>/   passages to search             manifest.json committed last
    terms/<digest>/       counts of their terms          manifest.json committed last
    indexes/<digest>/     what they are searched by      manifest.json committed last
    questions/            questions with their sides     each written whole
    exams/<key>/          one JSON file an exam          each written whole; its finished parts lie beside it until then
    mined/<digest>/       the set of a round             manifest.json committed last
    evolved/              what a round brought           each written whole
    verdicts/<key>/       what gates said, see lineage/verdicts.py
    checkpoints/<key>/    training state of a stage that still runs, see train/checkpoint.py
    scratch/              rows on their way to their part, removed at once; see data/shuffle.py
    leases/               who builds a generation right now, see lineage/lease.py
    streams/              the streams that wrote here, see lineage/notes.py
    spool/                what MLflow was not told yet, see lineage/spool.py
    collected/            generations whose weights are gone, see lineage/collected.py

A folder without its last file does not exist: whatever is killed half-way is simply made again. Digests of
what is written stand in that last file, and are compared when it is read.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyarrow import fs
from pydantic_core import from_json

from clray.errors import StorageError
from clray.lineage.generation import Generation


class Store:
    """Reads and writes below one root, which is a local folder or an object-store URI."""

    def __init__(self, root: str) -> None:
        self.root = root if "://" in root else str(Path(root).expanduser().absolute())
        if "@" in root.partition("://")[2].partition("/")[0]:
            raise StorageError(
                "storage: the URI holds credentials, which would end up in records; put them into the "
                "environment (AWS_ACCESS_KEY_ID and so on) and give the URI without them"
            )
        self.fs: fs.FileSystem
        self.base: str
        try:
            self.fs, self.base = (
                fs.FileSystem.from_uri(self.root) if "://" in root else (fs.LocalFileSystem(), self.root)
            )
        except (OSError, ValueError) as error:
            raise StorageError(
                f"storage '{root}' cannot be opened: {error}. Give a folder, or an s3:// or gs:// URI "
                "whose credentials are in the environment."
            ) from error
        self.local = isinstance(self.fs, fs.LocalFileSystem)
        """Whether the store is a folder of this machine (or a network disk mounted on it)."""
        self._below = f"{self.base.rstrip('/')}/"

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.root,)

    def path(self, relative: str) -> str:
        """`relative` as the file system of the store names it."""
        return self._below + relative

    def uri(self, relative: str) -> str:
        """`relative` as a URI without credentials, for records and people."""
        return f"file://{self.path(relative)}" if self.local else f"{self.fs.type_name}://{self.path(relative)}"

    def check_writable(self) -> None:
        """Raises StorageError where nothing can be written and read back."""
        probe = f".clray-probe-{uuid.uuid4().hex}"
        try:
            self.write_bytes(probe, b"clray")
            self.fs.delete_file(self.path(probe))
        except OSError as error:
            raise StorageError(
                f"storage '{self.root}' is not writable: {error}. Make the folder writable, or give "
                "another with storage=PATH."
            ) from error

    def exists(self, relative: str) -> bool:
        """Whether the file is there."""
        return bool(self.fs.get_file_info(self.path(relative)).type == fs.FileType.File)

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes the whole file or nothing: a reader never sees half of it. StorageError where space ran out."""
        path = self.path(relative)
        target = f"{path}.{uuid.uuid4().hex[:8]}.tmp" if self.local else path
        try:
            self.fs.create_dir(os.path.dirname(path), recursive=True)
            with self.fs.open_output_stream(target) as stream:
                stream.write(content)
            if self.local:
                os.replace(target, path)
        except OSError as error:
            if self.local:
                Path(target).unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageError(
                f"storage '{self.root}' is full: no room for {relative} ({len(content) / 2**20:,.1f} MiB). Free some "
                "space and run the same command again; it goes on from what is saved."
            ) from error

    def write_json(self, relative: str, value: Any) -> None:
        """Writes `value` as readable JSON, whole or not at all."""
        self.write_bytes(relative, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode())

    def read_bytes(self, relative: str) -> bytes:
        """Content of the file; FileNotFoundError where it is not there."""
        if self.local:
            with open(self.path(relative), "rb", buffering=0) as file:
                return file.read()
        with self.fs.open_input_stream(self.path(relative)) as stream:
            return bytes(stream.read())

    def read_json(self, relative: str) -> Any:
        """Value of the JSON file, or None where there is none; StorageError where it is no JSON.

        A file that another process deletes between the look and the reading is none.
        """
        if not self.local and not self.exists(relative):
            return None
        try:
            return from_json(self.read_bytes(relative))
        except FileNotFoundError:
            return None
        except OSError:
            if self.exists(relative):
                raise
            return None
        except ValueError as error:
            raise StorageError(
                f"storage '{self.root}': {relative} is damaged ({error}); it was written whole. Delete the file: what "
                "it stands for is then made again."
            ) from None

    def free_bytes(self) -> int | None:
        """Bytes left where the store lies; None for an object store."""
        return shutil.disk_usage(self.base).free if self.local else None

    def delete(self, relative: str) -> None:
        """Removes the file or folder, if it is there."""
        kind = self.fs.get_file_info(self.path(relative)).type
        if kind == fs.FileType.Directory:
            self.fs.delete_dir(self.path(relative))
        elif kind == fs.FileType.File:
            self.fs.delete_file(self.path(relative))

    def damaged(self, relative: str, digests: Mapping[str, str]) -> list[str]:
        """Names of the files below `relative` that are missing, or whose SHA-256 is not the one in `digests`."""
        folder = self.fetch(relative)
        return sorted(name for name, sha256 in digests.items() if file_digest(folder / name) != sha256)

    def sha256(self, relative: str) -> str:
        """SHA-256 of the file as it lies in the store, not in a cache of this machine; empty where there is none."""
        content = hashlib.sha256()
        try:
            with self.fs.open_input_stream(self.path(relative)) as stream:
                while block := stream.read(1 << 22):
                    content.update(block)
        except FileNotFoundError:
            return ""
        return content.hexdigest()

    def list(self, relative: str) -> list[str]:
        """Sorted names of the entries of the folder; empty where there is none."""
        if self.local:
            with contextlib.suppress(FileNotFoundError):
                return sorted(os.listdir(self.path(relative)))
            return []
        selector = fs.FileSelector(self.path(relative), allow_not_found=True)
        return sorted(info.base_name for info in self.fs.get_file_info(selector))

    def files(self, relative: str) -> Sequence[fs.FileInfo]:
        """The files below the folder, at any depth; none where there is no such folder."""
        selector = fs.FileSelector(self.path(relative), recursive=True, allow_not_found=True)
        return [info for info in self.fs.get_file_info(selector) if info.is_file]

    def upload(self, folder: str | Path, relative: str) -> dict[str, str]:
        """Copies the files below `folder` to `relative`; returns relative path -> SHA-256."""
        digests = {}
        for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            content = path.read_bytes()
            self.write_bytes(f"{relative}/{name}", content)
            digests[name] = hashlib.sha256(content).hexdigest()
        return digests

    def fetch(self, relative: str) -> Path:
        """Local folder with the files of `relative`: the folder itself, or a cached copy of a remote one."""
        if self.local:
            return Path(self.path(relative))
        target = cache_folder() / "fetched" / hashlib.sha256(self.path(relative).encode()).hexdigest()[:16]
        if not target.exists():
            partial = target.with_suffix(f".{uuid.uuid4().hex[:8]}.tmp")
            partial.mkdir(parents=True)  # an object store has no folders that would be made with their files
            fs.copy_files(
                self.path(relative),
                str(partial),
                source_filesystem=self.fs,
                destination_filesystem=fs.LocalFileSystem(),
            )
            try:
                partial.rename(target)
            except OSError:  # another process fetched the same folder meanwhile
                if not target.exists():
                    raise
        return target

    def generation(self, key: str) -> Generation | None:
        """The committed generation of that key, or None."""
        record = self.read_json(f"generations/{key}/generation.json")
        return Generation.from_dict(record) if record else None

    def generations(self) -> Iterator[Generation]:
        """All committed generations, oldest first."""
        found = (self.generation(name) for name in self.list("generations"))
        yield from sorted((g for g in found if g), key=lambda g: (g.created, g.index))

    def commit(self, generation: Generation) -> None:
        """Makes the generation exist: its record is the last file written."""
        self.write_json(f"generations/{generation.key}/generation.json", generation.to_dict())

    def weights(self, key: str) -> Path:
        """Local folder with the weights (or adapter) of the generation."""
        return self.fetch(f"generations/{key}/weights")

    def score(self, key: str, task: str) -> dict[str, Any] | None:
        """Cell of the score matrix: what generation `key` scored on the task of digest `task`, or None."""
        found: dict[str, Any] | None = self.read_json(f"scores/{key}/{task}.json")
        return found

    def write_score(self, key: str, task: str, score: dict[str, Any]) -> None:
        """Keeps a cell of the score matrix."""
        self.write_json(f"scores/{key}/{task}.json", score)


def cache_folder() -> Path:
    """Where this machine keeps copies of what lies in stores: CLRAY_CACHE, else below the home folder."""
    return Path(os.environ.get("CLRAY_CACHE", Path.home() / ".cache" / "clray"))


def file_digest(path: Path) -> str:
    """SHA-256 of the file, read once as long as its size and time stay the same; empty where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return ""
    return _file_digest(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
