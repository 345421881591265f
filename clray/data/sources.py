"""Where records come from: files, globs, object stores, Hugging Face data sets, builtin text."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from clray.errors import DataError
from clray.lineage.key import digest
from clray.lineage.store import Store
from clray.spec.source import Source

PACKAGE = "package:"
"""Begins the name of a file that came with a Ray job: each node unpacks it below a temporary folder of its own."""

PARQUET_ROWS = 1024
"""Rows of a Parquet file that are held at a time."""

TEXT, JSONL, PARQUET = (".txt", ".md", ".rst"), (".jsonl", ".ndjson"), (".parquet",)


@dataclass(frozen=True)
class Unit:
    """What one reading task reads: some files of one source, or a builtin or Hugging Face split whole."""

    source: dict[str, Any]
    files: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A file of a source: the URI to open it by, and its size and time."""

    uri: str
    info: fs.FileInfo


@dataclass(frozen=True)
class Opened:
    """A source whose files are found: the reading units, the content digest, and the bytes as they are in memory."""

    units: tuple[Unit, ...]
    digest: str
    num_bytes: int
    provenance: dict[str, Any]


def open_source(source: Source, store: Store) -> Opened:
    """Finds the files of the source and digests their content. DataError where there is nothing to read."""
    scheme, _, name = source.source.partition(":")
    plain = source.model_dump(mode="json")
    if scheme == "builtin":
        mark = _builtin_digest(name, source.split, store)
        return _opened(plain, ((),), [mark], 0, {"source": source.source, "split": source.split, "sha256": mark})
    if scheme == "hf":
        found = _hub_dataset(name, source.split)
        mark = found._fingerprint
        provenance = {"source": source.source, "split": source.split, "fingerprint": mark}
        return _opened(plain, ((),), [mark], int(found.data.nbytes), provenance)
    files = find_files(source.source)
    contents = [_file_digest(file, store) for file in files]
    groups = (tuple(f.uri for f in files),) if source.limit else tuple((f.uri,) for f in files)
    provenance = {
        "source": source.source.partition("?")[0],
        "files": [
            {"name": file.info.base_name, "bytes": file.info.size, "sha256": content}
            for file, content in zip(files, contents, strict=True)
        ],
    }
    return _opened(plain, groups, contents, sum(map(_text_bytes, files)), provenance)


def _opened(
    plain: dict[str, Any],
    groups: tuple[tuple[str, ...], ...],
    content: list[str],
    size: int,
    provenance: dict[str, Any],
) -> Opened:
    shape = {name: plain[name] for name in ("split", "fields", "instruction", "limit")}
    location = plain["source"] if plain["source"].startswith(("builtin:", "hf:")) else ""
    return Opened(
        tuple(Unit(plain, files) for files in groups), digest([location, shape, sorted(content)]), size, provenance
    )


def package_folder() -> Path | None:
    """Folder of the files that came with this Ray job, on this node; None where none came."""
    for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if Path(entry).parent.name == "working_dir_files":  # where Ray unpacks a job's working_dir
            return Path(entry).resolve()
    return None


def _portable(path: str) -> str:
    """The name by which every node finds the local file: below the package where it came with the job."""
    folder = package_folder()
    plain = Path(os.path.normpath(path))
    return f"{PACKAGE}{plain.relative_to(folder)}" if folder and plain.is_relative_to(folder) else path


def _filesystem(path: str) -> tuple[fs.FileSystem, str]:
    if path.startswith(PACKAGE):
        folder = package_folder()
        assert folder is not None, f"{path} is of a Ray job's package, and this process has none"
        return fs.LocalFileSystem(), str(folder / path.removeprefix(PACKAGE))
    if "://" in path:
        filesystem, inner = fs.FileSystem.from_uri(path)
        return filesystem, str(inner)
    return fs.LocalFileSystem(), str(Path(path).expanduser().absolute())


def find_files(pattern: str) -> list[File]:
    """The files that a path, folder, glob or URI names, in order; DataError where there is none."""
    remote, query = "://" in pattern, ""
    if remote:
        address, _, query = pattern.partition("?")
        filesystem, path = _filesystem(f"{address}?{query}" if query else address)
    else:
        filesystem, path = _filesystem(pattern)
    try:
        infos = [info for info in _matches(filesystem, path) if info.path.endswith(TEXT + JSONL + PARQUET)]
    except OSError as error:
        raise DataError(f"source '{pattern}' cannot be read: {error}") from error
    if not infos:
        raise DataError(
            f"source '{pattern}': no such file (or none that ends in "
            f"{', '.join(JSONL + PARQUET + TEXT)}); check the path, the working directory is {Path.cwd()}"
        )
    infos = sorted(infos, key=lambda info: info.path)
    if not remote:
        return [File(_portable(info.path), info) for info in infos]
    scheme, suffix = pattern.split("://")[0], f"?{query}" if query else ""
    return [File(f"{scheme}://{info.path}{suffix}", info) for info in infos]


def _matches(filesystem: fs.FileSystem, path: str) -> list[fs.FileInfo]:
    """The files that the path, folder or glob names."""
    if any(mark in path for mark in "*["):
        root = path.split("*")[0].split("[")[0].rpartition("/")[0]
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
        return [info for info in found if info.is_file and PurePosixPath(info.path).match(path)]
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.Directory:
        return [inner for inner in filesystem.get_file_info(fs.FileSelector(path)) if inner.is_file]
    return [info] if info.is_file else []


def _file_digest(file: File, store: Store) -> str:
    """SHA-256 of the file, remembered by path, size and time of change."""
    info = file.info
    place = f"digests/{digest([info.path, info.size, info.mtime_ns])}.json"
    known = store.read_json(place)
    if known:
        return str(known["sha256"])
    content = hashlib.sha256()
    filesystem, path = _filesystem(file.uri)
    with filesystem.open_input_stream(path) as stream:
        while block := stream.read(1 << 22):
            content.update(block)
    store.write_json(place, {"sha256": content.hexdigest()})
    return content.hexdigest()


def _text_bytes(file: File) -> int:
    """Bytes of the file, of a Parquet file before compression; DataError where it is none."""
    filesystem, path = _filesystem(file.uri)
    if not path.endswith(PARQUET):
        return int(file.info.size)
    try:
        footer = pq.read_metadata(path, filesystem=filesystem)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file.uri}: not a Parquet file: {error}") from error
    return sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))


def _builtin_digest(name: str, split: str, store: Store) -> str:
    """Digest of the builtin records, remembered by the Python installation and the code that makes them."""
    from clray.data import builtin

    if name not in builtin.names():
        raise DataError(f"source 'builtin:{name}' is not known; there are {', '.join(builtin.names())}")
    code = hashlib.sha256(Path(builtin.__file__).read_bytes()).hexdigest()
    place = f"digests/{digest([name, split, code, sys.version, sysconfig.get_path('stdlib')])}.json"
    known = store.read_json(place)
    if not known:
        known = {"sha256": digest(builtin.records(name, split))}
        store.write_json(place, known)
    return str(known["sha256"])


def _hub_dataset(name: str, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"source 'hf:{name}' needs the package datasets: pip install 'clray[hub]'") from error
    try:
        return datasets.load_dataset(name, split=split)
    except Exception as error:
        raise DataError(f"source 'hf:{name}', split '{split}', cannot be loaded: {error}") from error


def read_unit(unit: Unit) -> Iterator[tuple[dict[str, Any], str]]:
    """The raw records of the unit, each with its place (file:line) for messages."""
    source = unit.source
    limit = source["limit"]
    for count, item in enumerate(_read(source, unit.files)):
        if limit is not None and count >= limit:
            return
        yield item


def _read(source: dict[str, Any], files: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    scheme, _, name = source["source"].partition(":")
    if scheme == "builtin":
        from clray.data import builtin

        for number, record in enumerate(builtin.records(name, source["split"]), 1):
            yield record, f"{source['source']}/{source['split']}:{number}"
    elif scheme == "hf":
        for number, record in enumerate(_hub_dataset(name, source["split"]), 1):
            yield record, f"{source['source']}/{source['split']}:{number}"
    else:
        for file in files:
            yield from _read_file(file)


def _read_file(file: str) -> Iterator[tuple[dict[str, Any], str]]:
    filesystem, path = _filesystem(file)
    if path.endswith(PARQUET):
        with filesystem.open_input_file(path) as handle:
            number = 0
            for batch in pq.ParquetFile(handle).iter_batches(batch_size=PARQUET_ROWS):
                for record in batch.to_pylist():
                    number += 1
                    yield record, f"{file}:{number}"
        return
    with filesystem.open_input_stream(path) as stream:
        if path.endswith(TEXT):
            yield {"text": _text(stream.read(), file, 1)}, f"{file}:1"
            return
        for number, line in enumerate(io.BufferedReader(stream, 1 << 20), 1):
            text = _text(line, file, number)
            if text.strip():
                yield _json_line(text.removesuffix("\n"), f"{file}:{number}"), f"{file}:{number}"


def _text(content: bytes, file: str, line: int) -> str:
    """The text of a file, or of a line of it, that begins at `line`; DataError with the place where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += content[: error.start].count(b"\n")
        raise DataError(f"{file}:{line}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _json_line(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{place}: not valid JSON: {error.msg} at column {error.colno}; each line is one object"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{place}: a record is a JSON object, found {type(value).__name__}")
    return value
