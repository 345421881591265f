"""What one stage's InsCL plan costs: 15 transport distances, the newest of 16 tasks against all before it.

    python benchmarks/inscl_planner.py [--sizes 100,1000,10000] [--jobs 2] [--limit-seconds 600] [--out FILE]

Instructions are synthetic, 384 wide: unit vectors in a cone, around topics that tasks share, centred as clray centres
them. Each line of the table is a process of its own, so that its peak memory is its own; pairs are independent tasks,
`--jobs` at once with one thread each, as clray's Ray tasks are. Beside clray's solvers: SciPy's `cdist` and
`linear_sum_assignment`, and POT as it is usually called, `ot.dist` with `ot.emd2` (100,000 iterations) and with
`ot.sinkhorn2` (5 % of the largest cost, not debiased).

From `--one-pair-from` instructions on, what needs the whole cost matrix is measured on the first pair alone, and the
line says so. What does not end within the limit is a line that says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

TASKS, WIDTH, TOPICS = 16, 384, 40
OURS = ("exact", "sinkhorn", "sampled", "sliced", "auto")
USUAL = ("scipy", "pot emd2", "pot sinkhorn2")
SLOW = ("exact", "sinkhorn", *USUAL)
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def instructions(rows: int, seed: int = 0) -> list[np.ndarray]:
    """Embeddings (rows, WIDTH) of each task: one cone, a direction of the task's own, shared topics, and noise.

    Directions have a falling spectrum, as those of sentence embeddings. Cosines are about 0.5 within a task and 0.4
    between tasks before centring.
    """
    generator = np.random.default_rng(seed)
    spectrum = np.arange(1, WIDTH + 1) ** -0.5
    basis = np.linalg.qr(generator.standard_normal((WIDTH, WIDTH)))[0]

    def directions(number: int) -> np.ndarray:
        return (generator.standard_normal((number, WIDTH)) * spectrum / np.linalg.norm(spectrum)) @ basis

    cone, topics, own, found = directions(1), directions(TOPICS), directions(TASKS), []
    for task in range(TASKS):
        topic = generator.choice(TOPICS, size=rows, p=generator.dirichlet(np.full(TOPICS, 0.15)))
        x = cone + 0.6 * own[task] + 0.7 * topics[topic] + 0.8 * directions(rows)
        found.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    middle = np.concatenate(found).mean(0)
    return [x - middle for x in found]


def solve(way: str, x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    """The distance of one pair, and what to know of it."""
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    if way == "scipy":
        from scipy.optimize import linear_sum_assignment
        from scipy.spatial.distance import cdist

        cost = cdist(x, y, "cosine")
        return float(cost[linear_sum_assignment(cost)].mean()), ""
    from clray.replay import wasserstein

    ot = wasserstein._pot()
    if way in OURS:
        solver, _ = wasserstein.choose([len(x)] * TASKS, way)
        return wasserstein.distance(x, a, y, b, solver=solver).value, solver if way == "auto" else ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cost = ot.dist(x, y, metric="cosine")
        value = ot.emd2(a, b, cost) if way == "pot emd2" else ot.sinkhorn2(a, b, cost, reg=0.05 * cost.max())
    return float(value), "not converged" if any(
        "converge" in str(w.message) or "numItermax" in str(w.message) for w in said
    ) else ""


_SETS: list[np.ndarray] = []


def _start(folder: str) -> None:
    from clray.replay import wasserstein

    wasserstein._pot()
    _SETS.extend(np.load(Path(folder) / f"{task}.npy", mmap_mode="r") for task in range(TASKS))


def _pair(order: tuple[str, int]) -> dict[str, Any]:
    way, past = order
    started = time.process_time()
    value, note = solve(way, np.asarray(_SETS[-1]), np.asarray(_SETS[past]))
    return {
        "value": value,
        "note": note,
        "seconds": time.process_time() - started,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def measure(way: str, folder: str, pairs: int, jobs: int) -> dict[str, Any]:
    """Wall time of all pairs and CPU time of each, imports excepted; peak memory at rest and after.

    CPU time is what a busy machine leaves comparable.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (folder,)) as pool:
        idle = max(pool.map(_idle, range(2 * jobs)))
        started = time.perf_counter()
        found = list(pool.map(_pair, [(way, past) for past in range(pairs)]))
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "values": [one["value"] for one in found],
        "cpu_seconds": [one["seconds"] for one in found],
        "peak_bytes": max(one["peak_bytes"] for one in found),
        "idle_bytes": idle,
        "notes": sorted({one["note"] for one in found} - {""}),
    }


def _idle(_: int) -> int:
    time.sleep(0.5)  # so that each process answers
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(way: str, folder: str, pairs: int, jobs: int, limit: float) -> dict[str, Any]:
    """`measure` in a process of its own, ended after `limit` seconds."""
    order = [sys.executable, __file__, "--child", json.dumps([way, folder, pairs, jobs])]
    child = subprocess.Popen(order, stdout=subprocess.PIPE, text=True, start_new_session=True)
    line = {"way": way, "pairs": pairs}
    try:
        out, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, 9)
        child.wait()
        return line | {"failed": f"more than {limit:.0f} s"}
    return line | (json.loads(out) if child.returncode == 0 else {"failed": f"ended with {child.returncode}"})


def ranks_agree(values: np.ndarray, exact: np.ndarray) -> float:
    """Spearman's rank correlation; no ties."""
    return float(np.corrcoef(values.argsort().argsort(), exact.argsort().argsort())[0, 1])


def table(rows: int, lines: list[dict[str, Any]], jobs: int) -> str:
    """Markdown; errors are against the exact distances of the same pairs."""
    exact = next((line for line in lines if line["way"] == "exact" and "failed" not in line), None)
    text = [
        f"### {TASKS} tasks x {rows:,} instructions",
        "",
        "| solver | pairs | wall time | CPU a pair | / exact | peak memory | value / exact | shares off | ranks |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        name = line["way"] + "".join(f" ({note})" for note in line.get("notes", []))
        if "failed" in line:
            text.append(f"| {name} | {line['pairs']} | {line['failed']} | | | | | | |")
            continue
        ratio, *agreement = compared(line, exact) if exact else [""] * 4
        cells = [name, str(line["pairs"]), f"{line['seconds']:.2f} s", f"{np.median(line['cpu_seconds']):.3f} s", ratio]
        cells.append(f"{line['idle_bytes'] / 1e6:.0f} + {(line['peak_bytes'] - line['idle_bytes']) / 1e6:.0f} MB")
        cells += agreement
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def compared(line: dict[str, Any], exact: dict[str, Any]) -> list[str]:
    """Median CPU time, values, shares and ranks of a line beside the exact ones of the pairs that both have."""
    pairs = min(line["pairs"], exact["pairs"])
    values, truth = np.array(line["values"][:pairs]), np.array(exact["values"][:pairs])
    ratio = np.median(line["cpu_seconds"]) / np.median(exact["cpu_seconds"])
    found = [f"{ratio:.2f}x", f"{np.mean(values / truth - 1):+.2%}"]
    if pairs < 3:
        return [*found, "-", "-"]
    off = np.abs(values / values.sum() - truth / truth.sum()).sum() / 2
    return [*found, f"{off:.2%}", f"{ranks_agree(values, truth):.3f}"]


def main() -> None:
    """Measures every solver at every size, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000")
    parser.add_argument("--ways", default=",".join((*OURS, *USUAL)))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--one-pair-from", type=int, default=10_000)
    parser.add_argument("--limit-seconds", type=float, default=600)
    parser.add_argument("--folder", default="/tmp/inscl_planner", help="where the embeddings are put")
    parser.add_argument("--out", type=Path, help="JSON of all lines")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(*json.loads(given.child))))
        return
    os.environ.update(dict.fromkeys(THREADS, "1"))
    print(f"`python {' '.join([os.path.relpath(sys.argv[0]), *sys.argv[1:]])}`")
    print(
        f"{os.cpu_count()} cores ({processor()}), {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f}"
    )
    result: dict[str, Any] = {}
    for rows in map(int, given.sizes.split(",")):
        folder = Path(given.folder) / str(rows)
        folder.mkdir(parents=True, exist_ok=True)
        for task, x in enumerate(instructions(rows)):
            np.save(folder / f"{task}.npy", x)
        lines = []
        for way in given.ways.split(","):
            pairs = 1 if way in SLOW and rows >= given.one_pair_from else TASKS - 1
            lines.append(run(way, str(folder), pairs, given.jobs, given.limit_seconds))
            print(f"{rows} {way}: {lines[-1].get('seconds', lines[-1].get('failed'))}", file=sys.stderr, flush=True)
        result[str(rows)] = lines
        print(f"\n{table(rows, lines, given.jobs)}\n\nload {os.getloadavg()[0]:.1f} at the end", flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=1))


def processor() -> str:
    """Its name, where the system tells."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(": ")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
