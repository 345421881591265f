"""What a person sees while a stream runs, and afterwards: live progress, plain lines where there is no terminal."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from clray import printing
from clray.console_evolving import show_evolution
from clray.console_gate import show_probes_and_gates
from clray.evaluation.matrix import ScoreMatrix
from clray.lineage.generation import Generation
from clray.lineage.verdicts import REJECTED
from clray.outcome import Outcome
from clray.train.order import Progress as StageProgress


class Live:
    """A watcher that draws on the terminal's standard error, or prints a line now and then elsewhere."""

    def __init__(self, plain_every: float = 5.0) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._every = plain_every
        self._started = time.monotonic()
        self._last = 0.0
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._bar: TaskID | None = None

    def __enter__(self) -> Live:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar, after the seconds since the start."""
        self._clear()
        self._print(text)

    def training(self, line: str, stage: str, progress: StageProgress) -> None:
        """Shows step, loss, tokens a second and the time left."""
        speed = progress.tokens / max(progress.seconds, 1e-9)
        left = (progress.steps - progress.step) * progress.seconds / max(1, progress.step)
        self._show(
            f"{line} · training {stage}",
            progress.step,
            progress.steps,
            f"loss {progress.loss:.4f}  {speed:,.0f} tokens/s",
            f"ETA {left:.0f} s",
        )

    def measuring(self, stage: str, task: str, done: int, of: int) -> None:
        """Shows which task a generation is measured on."""
        self._show(f"measuring {stage}", done, of, task, "")

    def _show(self, what: str, done: int, of: int, note: str, plain: str) -> None:
        if self.console.is_terminal:
            if self._bar is None:
                self._bar = self._bars.add_task(what, total=of, note=note)
            self._bars.update(self._bar, description=what, completed=done, total=of, note=note)
            if done >= of:
                self._clear()
        elif done >= of or time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            self._print(f"{what}: {done}/{of}  {note}  {plain}".rstrip())

    def _print(self, text: str) -> None:
        self.console.print(f"{time.monotonic() - self._started:6.1f} s  {text}", markup=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._bar is not None:
            self._bars.remove_task(self._bar)
            self._bar = None


def show_outcome(outcome: Outcome) -> None:
    """Prints the score matrix of each line, and the metrics of all lines side by side."""
    console = printing.stdout()
    for line in outcome.lines:
        if line.matrix.tasks:
            console.print(matrix_table(line.name, line.matrix))
    rows = [(unit, name) for unit in outcome.line.metrics for name in outcome.line.metrics[unit]]
    if rows:
        table = Table(title="continual metrics", title_justify="left")
        table.add_column("score")
        table.add_column("metric")
        for line in outcome.lines:
            table.add_column(line.name, justify="right")
        for unit, name in rows:
            cells = [line.metrics.get(unit, {}).get(name) for line in outcome.lines]
            table.add_row(unit, name, *("–" if c is None else f"{c:.3f}" for c in cells))
        console.print(table)
    show_probes_and_gates(outcome, console)
    if any(g.receipt.get("round") for line in outcome.lines for g in line.generations):
        show_evolution(outcome.to_dict(), console)
    trained = len(outcome.built)
    total = len({stage.key for line in outcome.plan.chains for stage in (*line.stages, *line.rejected)})
    console.print(
        f"{trained} of {total} generations trained now, {total - trained} taken from the store; "
        f"{outcome.seconds:.1f} s",
        markup=False,
    )


def show_benchmark(values: dict[str, Any]) -> None:
    """Prints the tables of a benchmark: a row for each setting, mean and standard deviation over seeds."""
    from clray.report.benchmark import medians, tables

    console = printing.stdout()
    for domains in medians(values["combinations"]):
        table = Table(title=f"domains, {domains.unit.label}: medians over domains", title_justify="left")
        for head in ("setting", "seeds", *domains.heads):
            table.add_column(head, justify="left" if head == "setting" else "right")
        for row, texts in domains.rows:
            table.add_row(row.order, str(row.num_seeds), *texts)
        console.print(table)
    for metrics in tables(values["combinations"]):
        table = Table(title=f"continual metrics, {metrics.unit.label}", title_justify="left")
        for head in ("setting", "line", "seeds", *metrics.heads):
            table.add_column(head, justify="left" if head in ("setting", "line") else "right")
        for group, line, seeds, texts in metrics.rows:
            table.add_row(group, line, str(seeds), *texts)
        console.print(table)


def matrix_table(name: str, matrix: ScoreMatrix) -> Table:
    """The score matrix as a table; a star marks the generation that was taught the task."""
    heading, *rows = matrix.table()
    table = Table(
        title=f"score matrix: {name}", title_justify="left", caption="* taught by this stage", caption_justify="left"
    )
    for number, cell in enumerate(heading):
        table.add_column(cell, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def show_generations(rows: list[tuple[Generation, dict[str, Any]]]) -> None:
    """Prints the lineage as a tree: each generation below its parent, with what is known of it."""
    from rich.tree import Tree

    console = printing.stdout()
    keys = {generation.key for generation, _ in rows}
    nodes: dict[str, Any] = {}
    top = Tree(f"{len(rows)} generations", guide_style="dim")
    for generation, facts in sorted(rows, key=lambda row: row[0].index):
        above = nodes.get(generation.parent or "", top) if generation.parent in keys else top
        nodes[generation.key] = above.add(_label(generation, facts))
    console.print(top)


def _label(generation: Generation, facts: dict[str, Any]) -> str:
    tokens = generation.training.get("tokens")
    parts = [f"[bold]{generation.stage_name}[/] [dim]{generation.short}[/]", generation.stage.get("kind", "")]
    if facts.get("gate"):
        parts.append(f"[{'red' if facts['gate'] == REJECTED else 'dim'}]{facts['gate']}[/]")
    if tokens:
        parts.append(f"{tokens:,} tokens, {generation.training['seconds']:.0f} s")
    if facts.get("version"):
        parts.append(f"version {facts['version']}")
    if facts.get("aliases"):
        parts.append(f"[green]{', '.join(facts['aliases'])}[/]")
    parts.append("  ".join(f"{task} {value:.3f}" for task, value in facts.get("scores", {}).items()))
    return " · ".join(part for part in parts if part)
