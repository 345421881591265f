"""BM25 over passages: seconds to build, queries a second and memory, in 1 and 2 shards on Ray, beside bm25s alone.

    python benchmarks/retrieval.py PASSAGES.jsonl [--sizes 10000,100000,1000000] [--shards 1,2] [--queries 512]

Passages are made of the file's own sentences (field `text`), drawn at random until there are 150 words; queries are
runs of 8 words out of such sentences. `bm25s alone` is the library as it is called in one process: its own tokeniser
with the English stemmer and no stop words, index, save, load memory-mapped, retrieve. clray's are `bm25.prepare` and
`Bm25.search` on a local Ray of two CPUs; starting Ray and its workers is not counted (a small set is indexed first).
Each line is a process tree of its own; memory is the largest sum of its proportional set sizes, Ray's own processes
and object store included. CPU time is that of the same tree, and ratios are of CPU time, which neighbours change least.
Searching is measured on the second pass: the first one maps the index. A line that takes too long or too much memory
is ended and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

WORDS, QUERY, PART, SLICE, TOP = 150, 8, 50_000, 16_384, 10


def make_passages(sentences: Sequence[str], count: int, store: Any, folder: str) -> Any:
    """A committed set of `count` passages of random sentences."""
    from clray.data.manifest import Manifest, write_part

    rng, parts = random.Random(0), []
    for number, start in enumerate(range(0, count, PART)):
        texts = [passage(sentences, rng) for _ in range(start, min(start + PART, count))]
        marks = [f"{index:032x}" for index in range(start, start + len(texts))]
        sizes = pa.array([WORDS] * len(texts), pa.int32())
        columns = {"digest": marks, "title": [""] * len(texts), "text": texts}
        parts.append(
            write_part(store, folder, number, pa.table({**columns, "num_tokens": sizes, "num_targets": sizes}))
        )
    manifest = Manifest(digest=folder.rpartition("/")[2], folder=folder, parts=tuple(parts))
    manifest.commit(store)
    return manifest


def passage(sentences: Sequence[str], rng: random.Random) -> str:
    """Random sentences of 150 words or a little more."""
    found, count = [], 0
    while count < WORDS:
        found.append(rng.choice(sentences))
        count += found[-1].count(" ") + 1
    return " ".join(found)


def queries_of(sentences: Sequence[str], count: int) -> list[str]:
    """Runs of words out of random sentences."""
    rng = random.Random(1)
    long = [words for words in (sentence.split() for sentence in sentences) if len(words) >= QUERY]
    found = []
    for _ in range(count):
        words = rng.choice(long)
        start = rng.randrange(len(words) - QUERY + 1)
        found.append(" ".join(words[start : start + QUERY]))
    return found


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Wall and CPU seconds of this process and all below it, and what came out."""
    start, spent = time.perf_counter(), cpu()
    found = work()
    return {"wall": time.perf_counter() - start, "cpu": cpu() - spent}, found


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it."""
    return [process, *process.children(recursive=True)]


def cpu() -> float:
    """CPU seconds of this process and of those below it that live."""
    times = [each.cpu_times() for each in tree(psutil.Process())]
    return sum(time.user + time.system for time in times)


def alone(root: str, count: int, queries: list[str]) -> dict[str, dict[str, float]]:
    """bm25s in one process."""
    import bm25s
    import Stemmer

    from clray.data.manifest import Manifest
    from clray.lineage.store import Store
    from clray.mining.shelf import Shelf

    store = Store(root)
    shelf = Shelf(store, Manifest.load(store, f"knowledge/{count}"))
    stemmer = Stemmer.Stemmer("english")

    def tokens(texts: Iterable[str]) -> Any:
        return bm25s.tokenize(texts, stopwords=None, stemmer=stemmer, show_progress=False)

    def build(folder: str) -> None:
        index = bm25s.BM25(method="lucene")
        slices = (shelf.texts(start, min(start + SLICE, count)) for start in range(0, count, SLICE))
        index.index(tokens(chain.from_iterable(slices)), show_progress=False)
        index.save(folder, show_progress=False)

    with tempfile.TemporaryDirectory(dir=root) as folder:
        seconds, _ = timed(lambda: build(folder))
        index = bm25s.BM25.load(folder, mmap=True, show_progress=False)

        def search() -> Any:
            return index.retrieve(tokens(queries), k=TOP, show_progress=False)

        search()
        return {"build": seconds, "search": timed(search)[0]}


def sharded(root: str, count: int, queries: list[str], shards: int) -> dict[str, dict[str, float]]:
    """clray's index on a local Ray."""
    import ray

    from clray.data.manifest import Manifest
    from clray.lineage.store import Store
    from clray.mining import bm25
    from clray.mining.shelf import Shelf
    from clray.ray_session import LOCAL_CLUSTER, quiet
    from clray.spec.knowledge import Bm25Retriever

    quiet()
    os.environ.update(LOCAL_CLUSTER)
    for patience in range(5):  # on a busy machine Ray gives up on its own start after 30 s
        try:
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            break
        except Exception:
            if patience == 4:
                raise
            ray.shutdown()
    store = Store(root)

    def prepare(name: int) -> Any:
        shelf = Shelf(store, Manifest.load(store, f"knowledge/{name}"))
        return bm25.prepare(shelf, Bm25Retriever(), "english", shards)[0]

    prepare(WARM).search(queries[:4], TOP)
    seconds, index = timed(lambda: prepare(count))
    index.search(queries, TOP)
    found = {"build": seconds, "search": timed(lambda: index.search(queries, TOP))[0]}
    store.delete("indexes")
    store.delete("terms")
    ray.shutdown()
    return found


WARM = 200
"""Passages of the set that wakes the workers."""


def watched(command: list[str], seconds: float, gib: float) -> dict[str, Any]:
    """What the child printed last, and the peak memory of its process tree in MiB; where that or the time went over
    the limit, why it was stopped."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, start = 0, time.monotonic()
    while child.poll() is None:
        peak = max(peak, memory(psutil.Process(child.pid)))
        late = time.monotonic() - start > seconds
        if late or peak > gib * 2**30:
            for process in tree(psutil.Process(child.pid)):
                process.kill()
            child.wait()
            return {"stopped": f"not done in {seconds:g} s" if late else f"more than {gib:g} GiB"}
        time.sleep(0.3)
    assert child.stdout is not None
    return {**json.loads(child.stdout.read().splitlines()[-1]), "peak": peak / 2**20}


def memory(process: psutil.Process) -> int:
    """Bytes of the process and all below it, shared ones divided among those that share them."""
    total = 0
    for each in tree(process):
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def main() -> None:
    """Prints the table, or (with --child) measures one line of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("passages")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--shards", default="1,2")
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--limit-seconds", type=float, default=600, help="of one line of the table")
    parser.add_argument("--limit-gib", type=float, default=6, help="memory of one line's processes; more ends it")
    parser.add_argument("--child", nargs=3, metavar=("ROOT", "COUNT", "SHARDS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    lines = Path(asked.passages).read_text(encoding="utf-8").splitlines()
    text = " ".join(json.loads(line)["text"] for line in lines)
    sentences = [found for found in re.split(r"(?<=[.!?])\s+", text) if 4 <= found.count(" ") <= 60]
    queries = queries_of(sentences, asked.queries)
    if asked.child:
        root, count, shards = asked.child[0], int(asked.child[1]), int(asked.child[2])
        print(json.dumps(sharded(root, count, queries, shards) if shards else alone(root, count, queries)))
        return
    table(asked, sentences)


def table(asked: argparse.Namespace, sentences: list[str]) -> None:
    """Measures and prints line after line."""
    from clray.lineage.store import Store

    print(
        f"{os.cpu_count()} cores, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {asked.queries} queries of {QUERY} words, "
        f"top {TOP}.\n"
    )
    print("| passages | what | build | its CPU | / alone | queries a second | CPU a query | / alone | memory | load |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="clray-retrieval-") as root:
        make_passages(sentences, WARM, Store(root), f"knowledge/{WARM}")
        for count in map(int, asked.sizes.split(",")):
            make_passages(sentences, count, Store(root), f"knowledge/{count}")
            first: dict[str, Any] = {}
            for shards in (0, *map(int, asked.shards.split(","))):
                load = os.getloadavg()[0]
                command = [sys.executable, __file__, asked.passages, "--queries", str(asked.queries)]
                found = watched(
                    [*command, "--child", root, str(count), str(shards)], asked.limit_seconds, asked.limit_gib
                )
                first = first or ({} if "stopped" in found else found)
                name = f"clray, {shards} shard{'s'[: shards > 1]}" if shards else "bm25s alone"
                print(line(count, name, found, first, asked, load), flush=True)
            Store(root).delete(f"knowledge/{count}")


def line(count: int, name: str, found: dict[str, Any], first: dict[str, Any], asked: Any, load: float) -> str:
    """One row of the table."""
    if "stopped" in found:
        return f"| {count:,} | {name} | {found['stopped']} | | | | | | | {load:.1f} |"
    build, search = found["build"], found["search"]
    builds, searches = (
        f"{found[name]['cpu'] / first[name]['cpu']:.2f}x" if first else "" for name in ("build", "search")
    )
    return (
        f"| {count:,} | {name} | {build['wall']:.1f} s | {build['cpu']:.1f} s | {builds} "
        f"| {asked.queries / search['wall']:,.0f} | {search['cpu'] / asked.queries * 1000:.2f} ms | {searches} "
        f"| {found['peak']:,.0f} MiB | {load:.1f} |"
    )


if __name__ == "__main__":
    main()
