"""What the commands over the lineage print: tables, and one line a generation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from clray.history.blame import Blame
from clray.history.diff import Diff
from clray.history.garbage import Sweep
from clray.history.log import Line, Log, scores_in_words
from clray.history.paired import Difference
from clray.history.promotion import Moved
from clray.history.show import Portrait
from clray.history.verify import Verdict

if TYPE_CHECKING:  # these load PyTorch
    from clray.history.bisect import Bisection
    from clray.history.reproduce import Reproduction


def show_log(found: Log) -> None:
    """Prints the tree, a line for each generation, and what all of it cost."""
    typer.echo("\n".join(_line(line) for line in found.lines))
    typer.echo(
        f"{len(found.lines)} generations: {found.tokens:,} tokens, {duration(found.seconds)}, {found.flops:.3g} FLOPs"
    )


def _line(line: Line) -> str:
    """Styled for a terminal; typer.echo leaves the styles out elsewhere, and is quick with ten thousand lines."""
    entry = line.entry
    facts = [entry.kind, f"{entry.tokens:,} tokens, {duration(entry.seconds)}" if entry.tokens else ""]
    facts += [scores_in_words(entry), "weights collected" if entry.gone else ""]
    marks = [typer.style(f"[{name}]", fg="green") for name in line.aliases]
    marks += [typer.style(f"({entry.status})", fg="red")] if entry.status else []
    name = f"{line.rails}● {typer.style(entry.stage, bold=True)} {typer.style(entry.short, dim=True)}"
    return "  ".join(part for part in (name, *marks, " · ".join(fact for fact in facts if fact)) if part)


def show_portrait(found: Portrait) -> None:
    """Prints everything about one generation."""
    made, console = found.made, _console()
    console.print(f"[bold]{made.stage_name}[/] {made.key}", *(f"[green]\\[{name}][/]" for name in found.aliases))
    facts = {
        "generation": f"{made.index} of its line, created {made.created}",
        "parent": made.parent or "none: it is a root",
        "weights": _weights_in_words(found),
        "adapter": "none: complete weights" if made.adapter is None else f"{_short(made.adapter)}, on {made.base}",
        "children": ", ".join(f"{child.stage} {child.short}" for child in found.children) or "none",
        "registered": ", ".join(f"{r['stream']} version {r['version']}" for r in found.registered) or "not found",
        "moves": "; ".join(_move_in_words(move) for move in found.moves),
        "digest of its data": made.data.get("digest", ""),
    }
    _pairs(console, "", {name: value for name, value in facts.items() if value})
    _pairs(console, "settings", {name: _setting(*value) for name, value in _settings(found).items()})
    _data(console, found)
    _scores(console, found)
    _pairs(console, "training", {name: _number(value) for name, value in made.training.items()})
    packages = {**made.environment, **made.environment.get("packages", {})}
    _pairs(console, "environment", {name: str(v) for name, v in packages.items() if name != "packages"})


def show_diff(found: Diff) -> None:
    """Prints what changed from one generation to another."""
    console = _console()
    names = [f"{made.stage_name} {made.short}" for made in (found.before, found.after)]
    console.print(f"[bold]{names[0]}[/] to [bold]{names[1]}[/]: {found.relation}", highlight=False)
    _table(
        console,
        "settings",
        ("field", *names),
        [(name, _short(a), _short(b)) for name, (a, b) in found.settings.items()],
    )
    for way in ("in", "out"):
        for name in found.sources[way]:
            console.print(f"source {way}: {name}", markup=False)
    for kind, counts in found.examples.items():
        if counts is None:
            console.print(f"{kind} examples: a record set is not in the storage any more", markup=False)
        elif any(counts.values()):
            console.print(
                f"{kind} examples: {counts['both']:,} in both, {counts['rows_in']:,} in, {counts['rows_out']:,} out",
                markup=False,
            )
    rows = [(name, f"{a:,}", f"{b:,}") for name, (a, b) in found.replayed.items()]
    _table(console, "rows shown, by stage", ("stage", *names), rows, right=(1, 2))
    _table(
        console,
        "scores; 95 % interval of the change (paired bootstrap); answers that turned right and wrong",
        ("task", "score", "before", "after", "change", "interval", "right", "wrong"),
        [(each.task, *_difference(each.difference), *_turned(each.flips)) for each in found.tasks],
        right=(2, 3, 4, 5, 6, 7),
    )
    if found.unmeasured:
        console.print(f"measured in one of them alone: {', '.join(found.unmeasured)}", markup=False)
    for each in found.tasks:
        for flip in each.flips.get("examples", ()):
            console.print(
                f"{each.task}, example {flip['number']}, turned {flip['became']}: {flip['prompt']}\n"
                f"    wanted {flip['wanted']!r}: {flip['before']!r} -> {flip['after']!r}",
                markup=False,
                soft_wrap=True,
            )


def show_blame(found: Blame) -> None:
    """Prints what each stage did to the task."""
    marks = {found.gave: "gave most", found.cost: "cost most"}
    rows = []
    for step in found.steps:
        change = ("–", "") if step.change is None else _difference(step.change)[3:]
        rows.append(
            (", ".join(step.stages), step.made.short, f"{step.score:.4f}", *change, marks.get(step.made.key, ""))
        )
    title = f"{found.task.name}, {found.task.metric}{' (less is better)' if found.task.lower else ''}"
    heads = ("stage", "generation", "score", "change", "95 % interval", "")
    _table(_console(), title, heads, rows, right=(2, 3, 4))


def show_verdict(found: Verdict) -> None:
    """Prints what is wrong with the storage, and what mends it."""
    console = _console()
    for problem in found.problems:
        console.print(f"{problem.place}: {problem.what}\n    {problem.mend}", markup=False, soft_wrap=True)
    looked = ", ".join(f"{number:,} {kind}" for kind, number in found.checked.items())
    wrong = f"{len(found.problems)} problems" if found.problems else "all as it was written"
    console.print(f"looked at {looked}: {wrong}", markup=False)


def show_sweep(found: Sweep) -> None:
    """Prints what is kept and why, and what nothing needs."""
    console = _console()
    rows = [(i.entry.stage, i.entry.short, size(i.bytes), "; ".join(i.reasons)) for i in found.kept]
    _table(console, "kept", ("stage", "generation", "weights", "because"), rows, right=(2,))
    free = [(i.entry.stage, i.entry.short, size(i.bytes)) for i in found.free]
    _table(console, "removed" if found.deleted else "needed by nothing", ("stage", "generation", "weights"), free, (2,))
    total = size(sum(item.bytes for item in found.free))
    if not found.free:
        console.print("nothing to remove", markup=False)
    elif found.deleted:
        console.print(f"removed the weights of {len(found.free)} generations, {total}; their records stay")
    else:
        console.print(f"clray gc --delete removes the weights of {len(found.free)} generations, {total}; records stay")


def show_moved(found: Moved) -> None:
    """Prints where an alias stands now."""
    before = f", before {found.before[:10]}" if found.before else ""
    typer.echo(f"{found.alias} of {found.stream}: {found.move.key[:10]} (version {found.move.version}){before}")


def show_reproduction(found: Reproduction) -> None:
    """Prints how what was made again compares with the record."""
    console = _console()
    _table(
        console, f"{found.made.stage_name} {found.made.short} made again", ("file", "bits"), list(found.files.items())
    )
    console.print(f"packed data: {found.shards}", markup=False)
    if found.loss_apart is not None:
        console.print(f"losses: at most {found.loss_apart:.3g} apart (relative)", markup=False)
    for name, (then, now) in found.environment.items():
        console.print(f"{name}: was {then}, is {now}", markup=False)
    for key in found.also:
        console.print(f"made again before it, as its weights were collected: {key[:10]}", markup=False)
    verdict = "the same bits in every file" if found.same else "not the same bits"
    console.print(f"{verdict}; {duration(found.seconds)}{'; put back' if found.restored else ''}", markup=False)


def show_bisection(found: Bisection) -> None:
    """Prints the scores on the way, and where the task broke."""
    rows = [
        (
            made.stage_name,
            made.short,
            "–" if score is None else f"{score:.4f}",
            "broke here" if made is found.broke else "measured now" if made.key in found.measured else "",
        )
        for made, score in zip(found.line, found.scores, strict=True)
    ]
    _table(
        _console(), f"{found.task.name}, {found.task.metric}", ("stage", "generation", "score", ""), rows, right=(2,)
    )
    if found.broke is None or found.before is None:
        typer.echo(f"it holds at {found.limit:g}")
    else:
        typer.echo(f"broke in {found.broke.stage_name} {found.broke.key}; still good in {found.before.short}")


def duration(seconds: float) -> str:
    """Seconds in the largest unit that fits."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def size(num_bytes: float) -> str:
    """Bytes in the largest unit that fits."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.2f} GiB"


def _console() -> Console:
    return Console(file=sys.stdout, highlight=False)


def _weights_in_words(found: Portrait) -> str:
    if not found.weights["there"]:
        return f"gone: collected {found.weights['collected']}, {size(found.weights['bytes'])}"
    return size(found.weights["bytes"])


def _move_in_words(move: dict[str, str]) -> str:
    return f"{move['action']} to {move['alias']} by {move['who'] or 'unknown'}, {move['when'][:16]}: {move['why']}"


def _settings(found: Portrait) -> dict[str, tuple[Any, str]]:
    """Each setting with where it came from; those of the resolved stage that were not inherited stand as given."""
    stage = {name: (value, "") for name, value in found.made.stage.items() if name not in ("optimiser",)}
    inherited = {name: (value, origin) for name, (value, origin) in found.made.inheritance.items()}
    return {**stage, **inherited}


def _setting(value: Any, origin: str) -> str:
    return f"{_short(value)}  ({origin})" if origin else _short(value)


def _data(console: Console, found: Portrait) -> None:
    rows = [
        (
            r["stage"],
            f"{r['rows']:,}",
            "?" if r["of_rows"] is None else f"{r['of_rows']:,}",
            f"{r['tokens']:,}",
            r["records"],
        )
        for r in found.records
    ]
    _table(console, "data", ("stage", "rows shown", "of rows", "tokens", "record set"), rows, right=(1, 2, 3))
    for source in found.made.data.get("sources", []):
        for file in source.get("files") or [source]:
            mark = file.get("sha256") or file.get("fingerprint", "")
            console.print(f"source {file.get('name', source['source'])}  {mark}", markup=False, soft_wrap=True)
    draws = found.made.receipt.get("draws", [])
    rows = [
        (d["stage"], f"{d['asked']:,} {d['unit']}", f"{d['rows']:,}", f"{d['tokens']:,}", d["rows_digest"])
        for d in draws
    ]
    _table(
        console, "replayed", ("stage", "asked", "rows drawn", "tokens", "digest of row numbers"), rows, right=(1, 2, 3)
    )


def _scores(console: Console, found: Portrait) -> None:
    rows = [
        (cell["task"], cell["digest"][:10], "  ".join(f"{k} {_number(v)}" for k, v in cell["metrics"].items()))
        for cell in found.scores
    ]
    _table(console, "scores", ("task", "digest", ""), rows)


def _difference(found: Difference) -> tuple[str, str, str, str, str]:
    """Metric, before, after, change (starred where it is clear of 0), interval."""
    star = "*" if found.clear else ""
    return (
        found.metric,
        f"{found.before:.4f}",
        f"{found.after:.4f}",
        f"{found.change:+.4f}{star}",
        f"{found.low:+.3f} to {found.high:+.3f}",
    )


def _turned(flips: dict[str, Any]) -> tuple[str, str]:
    return (f"{flips['right']:,}", f"{flips['wrong']:,}") if flips else ("", "")


def _pairs(console: Console, title: str, values: dict[str, str]) -> None:
    if not values:
        return
    table = Table(title=title or None, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, _plain(value))
    console.print(table)


def _table(console: Console, title: str, heads: Iterable[str], rows: list[Any], right: tuple[int, ...] = ()) -> None:
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(_plain(head), justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))
    console.print(table)


def _plain(text: str) -> str:
    """The text without a meaning to rich."""
    return text.replace("[", "\\[")


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _short(value)
