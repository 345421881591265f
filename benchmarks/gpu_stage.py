"""The stage loop alone, without Ray and without a network: tokens/s, MFU, peak memory, and a kill-and-resume check.

    python benchmarks/gpu_stage.py [--out FILE] [--budget-seconds 450] [--models 0.5b,1b] [--attention sdpa,varlen]
    python benchmarks/gpu_stage.py --smoke             a tiny model on the CPU: shows that it runs, measures nothing

Llama-shaped models with random weights, bf16, random documents packed to 2048 tokens; full and LoRA, ZeRO 0 to 3,
every attention that the machine has, with and without torch.compile. Each configuration is a process of its own,
so one that fails is a line of the result. What no longer fits the budget is a line too. A table goes to stderr,
the JSON to stdout or FILE. One GPU; the most telling configurations come first.

FLOPs are those of `clray.cost`: 6 a weight and token (4 with LoRA), weights without the embedding look-up, plus
attention over whole rows (6 * layers * width * length a token), as published figures count it. `mfu_by_document`
counts attention inside the documents alone, which is what packed rows need.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from stage_figures import GPU, SHAPES, SMOKE, Settings, Stage, loss_spread, peak_of, show, stages, summary, verdict

FIRST_GUESS = 40.0
END = {"error": "failed", "late": "skipped"}
"""Events that end a job before its time, and what becomes of its line."""


class Child:
    """A process that trains; started ahead, so that its imports run beside the stage before."""

    def __init__(self, folder: Path, number: int) -> None:
        reading, writing = os.pipe()
        self.log = folder / f"child-{number}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("stage_child.py")), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env={**os.environ, "TMPDIR": str(folder), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        os.close(writing)
        self._events: Queue[dict[str, Any] | None] = Queue()
        threading.Thread(target=self._read, args=[reading], daemon=True).start()

    def _read(self, reading: int) -> None:
        with os.fdopen(reading) as stream:
            for line in stream:
                if line.endswith("\n"):  # a process that is killed may leave half a line
                    self._events.put(json.loads(line))
        self._events.put(None)

    def event(self, seconds: float) -> dict[str, Any]:
        """The next event; `error` where the process ended or `seconds` went by."""
        try:
            found = self._events.get(timeout=max(0.0, seconds))
        except Empty:
            return {"event": "late", "error": "stopped: the budget is spent"}
        return found or {"event": "error", "error": f"the process ended: {self._last_words()}"}

    def order(self, job: dict[str, Any]) -> None:
        """Gives the process something to do."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Ends the process with signal 9."""
        self.process.kill()
        self.process.wait()

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return f"exit code {self.process.wait()}; {lines[-1] if lines else 'it said nothing'}"


class Bench:
    """Runs configurations one after the other, as long as the budget lasts."""

    def __init__(self, settings: Settings, storage: Path, budget: float, reuse: bool) -> None:
        self.settings, self.storage, self.reuse = settings, storage, reuse
        self.started, self.budget = time.monotonic(), budget
        self.ahead = (os.cpu_count() or 1) >= 4
        self.children = 0
        self.took: dict[tuple[str, bool], float] = {}
        self.child = self._start()
        self.spare: Child | None = None
        self.surroundings = self.child.event(300)
        if self.surroundings.pop("event") != "ready":
            sys.exit(f"the benchmark cannot start: {self.surroundings['error']}")
        self.peak = peak_of(self.surroundings["device"])

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.monotonic() - self.started)

    def close(self) -> None:
        """Ends what still runs."""
        for child in (self.child, self.spare):
            if child is not None:
                child.kill()

    def measure(self, stage: Stage) -> dict[str, Any]:
        """What the configuration reached, or why it did not."""
        line = {**asdict(stage), "name": stage.name}
        if reason := self._no_room(stage, 1):
            return {**line, "status": "skipped", "reason": reason}
        begun = time.monotonic()
        events = self._work(stage, "measure", "done")
        if END.get(events[-1]["event"]):
            return {**line, **self._lost(events[-1])}
        self._finish()
        self.took[stage.model, stage.compile] = time.monotonic() - begun
        steps = [event for event in events if event["event"] == "step"]
        facts = next(event for event in events if event["event"] == "prepared")
        found = summary(stage, steps, facts, self.settings, self.peak)
        return {
            **line,
            "status": "ok",
            **found,
            "peak_bytes": events[-1]["peak_bytes"],
            "wall_seconds": self._took(stage),
        }

    def check(self, stage: Stage) -> dict[str, Any]:
        """Whether a stage that is killed with signal 9 and run again ends as one that never was."""
        line = {**asdict(stage), "name": stage.name}
        if reason := self._no_room(stage, 3):
            return {**line, "status": "skipped", "reason": reason}
        last = self._work(stage, "killed", "stands")[-1]
        if END.get(last["event"]):
            return {**line, **self._lost(last)}
        self.child.kill()
        begun = time.monotonic()
        first = self._work(stage, "resumed", "step")[-1]
        seconds = time.monotonic() - begun
        last = first if END.get(first["event"]) else self._until("done")[-1]
        if END.get(last["event"]):
            return {**line, **self._lost(last)}
        self._finish()
        return {**line, **verdict(self.settings, first["step"] - 1, seconds, last["resumed"], last["whole"])}

    def _work(self, stage: Stage, kind: str, end: str) -> list[dict[str, Any]]:
        """Gives a child the job; its events up to the first of the kind `end`, or to the one that ended it."""
        if self.child.process.poll() is not None:
            self.child, self.spare = self.spare or self._start(), None
            if END.get((ready := self.child.event(self.left))["event"]):
                return [ready]
        if self.ahead and not self.reuse and self.spare is None:
            self.spare = self._start()
        self.child.order(self._job(stage, kind))
        return self._until(end)

    def _until(self, end: str) -> list[dict[str, Any]]:
        events = [self.child.event(self.left)]
        while events[-1]["event"] != end and not END.get(events[-1]["event"]):
            events.append(self.child.event(self.left))
        return events

    def _lost(self, event: dict[str, Any]) -> dict[str, Any]:
        """The line of a configuration that did not come to its end."""
        if event["event"] == "late" or not self.reuse:
            self.child.kill()
        return {"status": END[event["event"]], "reason": event["error"]}

    def _job(self, stage: Stage, kind: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "storage": str(self.storage),
            **asdict(self.settings),
            **asdict(stage),
            "name": stage.name,
        }

    def _no_room(self, stage: Stage, runs: int) -> str | None:
        need = runs * self._took(stage)
        return f"about {need:.0f} s needed, {self.left:.0f} s of the budget left" if need > self.left else None

    def _took(self, stage: Stage) -> float:
        """Seconds that this configuration took, or one like it, or a guess."""
        like = [s for (model, _), s in self.took.items() if model == stage.model]
        return self.took.get((stage.model, stage.compile), max(like, default=FIRST_GUESS))

    def _start(self) -> Child:
        self.children += 1
        return Child(self.storage, self.children)

    def _finish(self) -> None:
        """Ends the child, unless it is used again."""
        if not self.reuse:
            self.child.kill()


def main() -> int:
    """Runs what fits the budget; 0 where something was measured and no check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a tiny model on whatever there is")
    parser.add_argument("--out", type=Path, help="file for the JSON; default: stdout")
    parser.add_argument("--budget-seconds", type=float, default=450.0)
    parser.add_argument("--models", help="say 0.5b; default: 0.5b,1b")
    parser.add_argument("--attention", help="say sdpa,varlen; the last is taken for best. Default: all there are")
    parser.add_argument("--folder", type=Path, help="where the models are written (7 GB); default: the temporary one")
    given = parser.parse_args()
    settings = SMOKE if given.smoke else GPU
    if given.models:
        settings = replace(settings, models=tuple(given.models.split(",")))
    if unknown := set(settings.models) - set(SHAPES):
        parser.error(f"--models: '{min(unknown)}' is not known; there are {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory(prefix="clray-benchmark-", dir=given.folder) as folder:
        result = run(settings, Path(folder), given.budget_seconds, given.smoke, given.attention)
    show(result["stages"], result["kill_and_resume"], result["loss_spread"])
    text = json.dumps(result, indent=1)
    if given.out:
        given.out.write_text(text + "\n")
    else:
        print(text)
    measured = any(line["status"] == "ok" for line in result["stages"])
    return 0 if measured and all(line["status"] != "failed" for line in result["kill_and_resume"]) else 1


def best_attention(bench: Bench, attentions: list[str]) -> list[dict[str, Any]]:
    """Lines of the first configuration: the last of the attentions is taken off the list as long as it fails."""
    lines: list[dict[str, Any]] = []
    while True:
        lines.append(bench.measure(stages(bench.settings.models, attentions)[0]))
        if lines[-1]["status"] != "failed" or len(attentions) == 1:
            return lines
        attentions.pop()


def run(settings: Settings, storage: Path, budget: float, smoke: bool, attention: str | None) -> dict[str, Any]:
    """All that goes into the JSON."""
    bench = Bench(settings, storage, budget, reuse=smoke)
    try:
        if not bench.surroundings["cuda"] and not smoke:
            sys.exit("there is no CUDA device; --smoke runs a tiny model on the CPU")
        missing = bench.surroundings["missing"]
        attentions = attention.split(",") if attention else [name for name in missing if not missing[name]]
        lines = best_attention(bench, attentions)
        wanted = [stage for stage in stages(settings.models, attentions) if stage.name != lines[-1]["name"]]
        if smoke:  # compiling a tiny model takes longer than all the rest
            wanted = [replace(wanted[0], zero_stage=2)]
        first = 2 * len(settings.models) - 1
        lines += [bench.measure(stage) for stage in wanted[:first]]
        kills = [bench.check(wanted[0])]
        lines += [bench.measure(stage) for stage in wanted[first:]]
        kills += [] if smoke else [bench.check(Stage(settings.models[0], "full", 2, attentions[-1]))]
    finally:
        bench.close()
    return {
        "surroundings": bench.surroundings,
        "peak_flops": bench.peak,
        "settings": asdict(settings),
        "seconds": time.monotonic() - bench.started,
        "stages": lines,
        "loss_spread": loss_spread(lines),
        "kill_and_resume": kills,
    }


if __name__ == "__main__":
    sys.exit(main())
