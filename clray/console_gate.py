"""What stages did to groups of probes, and what gates decided, as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from clray.evaluation.probes import effects
from clray.gating import said
from clray.outcome import LineOutcome, Outcome
from clray.report.numbers import Unit


def show_probes_and_gates(outcome: Outcome, console: Console) -> None:
    """Prints a table of probes for each line that has groups, and each verdict of a gate in a sentence."""
    for line in outcome.lines:
        table = probe_table(line)
        if table is not None:
            console.print(table)
    for line in outcome.lines:
        for text in verdicts(line):
            console.print(f"{line.name} · {text}", markup=False, soft_wrap=True)


def probe_table(line: LineOutcome) -> Table | None:
    """By stage and group the step of the stage, and the change since the base model; None without groups."""
    found = effects(line.matrix)
    if not found or len(line.matrix.stages) < 2:
        return None
    table = Table(
        title=f"probes: {escape(line.name)}; step of each stage, and change since the base model; above 0 is better",
        title_justify="left",
    )
    table.add_column("stage")
    table.add_column("kind")
    for effect in found:
        table.add_column(f"{effect.group} ({effect.metric})", justify="right", overflow="fold")
    for row in range(1, len(line.matrix.stages)):
        units = [(Unit(effect.metric), effect.steps[row], effect.deltas[row]) for effect in found]
        cells = [f"{unit.signed(step)}  {unit.signed(delta)}" for unit, step, delta in units]
        table.add_row(escape(line.matrix.stages[row]), line.generations[row].stage.get("kind", ""), *cells)
    return table


def verdicts(line: LineOutcome) -> list[str]:
    """What the gates of the line decided, in the order of its stages and tries."""
    judged = [(one.generation, one.verdict) for one in line.rejected]
    judged += [(made, line.verdicts[made.key]) for made in line.generations if made.key in line.verdicts]
    judged.sort(key=lambda pair: (pair[0].index, pair[1].accepted, pair[1].attempt))
    return [f"{made.stage_name} {made.short}: {said(verdict)}" for made, verdict in judged]
