"""What the commands over the lineage print: tables, and one line a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from clray.history.blame import Blame
from clray.history.diff import Diff
from clray.history.garbage import Sweep
from clray.history.log import Line, Log, scores_in_words
from clray.history.paired import Difference
from clray.history.promotion import Moved
from clray.history.show import Portrait
from clray.history.tables import in_figures, print_pairs, print_table
from clray.history.verify import Verdict
from clray.lineage.verdicts import REJECTED
from clray.printing import stdout
from clray.report.numbers import duration, setting, short_count

if TYPE_CHECKING:  # these load PyTorch
    from clray.history.bisect import Bisection
    from clray.history.reproduce import Reproduction


def show_log(found: Log) -> None:
    """Prints the tree, a line for each generation, and what all of it cost."""
    typer.echo("\n".join(_line(line, found.tasks) for line in found.lines))
    energy = f", {found.joules / 3.6e6:.3g} kWh" if found.joules else ""
    typer.echo(
        f"{len(found.lines)} generations: {found.tokens:,} tokens, {duration(found.seconds)}, {found.flops:.3g} FLOPs"
        f"{energy}"
    )


def _line(line: Line, tasks: set[str]) -> str:
    """Styled for a terminal; typer.echo leaves the styles out elsewhere, and is quick with ten thousand lines."""
    entry = line.entry
    facts = [entry.kind, f"{entry.tokens:,} tokens, {duration(entry.seconds)}" if entry.tokens else ""]
    facts += [scores_in_words(entry, tasks), "weights collected" if entry.gone else ""]
    marks = [typer.style(f"[{name}]", fg="green") for name in line.aliases]
    marks += [typer.style(f"({entry.status})", fg="red" if entry.status == REJECTED else None)] if entry.status else []
    marks += [f"(trial {trial})" for trial in line.trials]
    name = f"{line.rails}● {typer.style(entry.stage, bold=True)} {typer.style(entry.short, dim=True)}"
    return "  ".join(part for part in (name, *marks, " · ".join(fact for fact in facts if fact)) if part)


def show_portrait(found: Portrait) -> None:
    """Prints everything about one generation."""
    made, console = found.made, stdout()
    console.print(f"[bold]{made.stage_name}[/] {made.key}", *(f"[green]\\[{name}][/]" for name in found.aliases))
    facts = {
        "generation": f"{made.index} of its line, created {made.created}",
        "parent": made.parent or "none: it is a root",
        "weights": _weights_in_words(found),
        "adapter": "none: complete weights" if made.adapter is None else f"{setting(made.adapter)}, on {made.base}",
        "gate": "; ".join(_gate_in_words(found, verdict) for verdict in found.gates),
        "children": ", ".join(f"{child.stage} {child.short}" for child in found.children) or "none",
        "registered": ", ".join(f"{r['stream']} version {r['version']}" for r in found.registered),
        "moves": "; ".join(_move_in_words(move) for move in found.moves),
        "digest of its data": made.data.get("digest", ""),
    }
    print_pairs(console, "", {name: value for name, value in facts.items() if value})
    print_pairs(console, "settings", {name: _setting(*value) for name, value in _settings(found).items()})
    _data(console, found)
    _scores(console, found)
    print_pairs(console, "training", {name: in_figures(value) for name, value in made.training.items()})
    packages = {**made.environment, **made.environment.get("packages", {})}
    print_pairs(console, "environment", {name: str(v) for name, v in packages.items() if name != "packages"})


def show_diff(found: Diff) -> None:
    """Prints what changed from one generation to another."""
    console = stdout()
    names = [f"{made.stage_name} {made.short}" for made in (found.before, found.after)]
    typer.echo(f"{names[0]} to {names[1]}: {found.relation}")
    print_table(
        console,
        "settings",
        ("field", *names),
        [(name, setting(a), setting(b)) for name, (a, b) in found.settings.items()],
    )
    for way in ("in", "out"):
        for name in found.sources[way]:
            typer.echo(f"source {way}: {name}")
    for kind, counts in found.examples.items():
        if counts is None:
            typer.echo(f"{kind} examples: a record set is not in the storage any more")
        elif any(counts.values()):
            typer.echo(
                f"{kind} examples: {counts['both']:,} in both, {counts['rows_in']:,} in, {counts['rows_out']:,} out"
            )
    rows = [(name, f"{a:,}", f"{b:,}") for name, (a, b) in found.replayed.items()]
    print_table(console, "rows shown, by stage", ("stage", *names), rows, right=(1, 2))
    print_table(
        console,
        "scores; change with its 95 % interval (paired bootstrap); answers turned right / wrong",
        ("task", "score", "before", "after", "change", "interval", "turned"),
        [(each.task, *_difference(each.difference), _turned(each.flips)) for each in found.tasks],
        right=(2, 3, 4, 5, 6),
    )
    if found.unmeasured:
        typer.echo(f"measured in one of them alone: {', '.join(found.unmeasured)}")
    for each in found.tasks:
        for flip in each.flips.get("examples", ()):
            typer.echo(
                f"{each.task}, example {flip['number']}, turned {flip['became']}: {flip['prompt']}\n"
                f"    wanted {flip['wanted']!r}: {flip['before']!r} -> {flip['after']!r}"
            )


def show_blame(found: Blame) -> None:
    """Prints what each stage did to the task."""
    marks = {found.gave: "gave most", found.cost: "cost most"}
    rows = []
    for step in found.steps:
        change = ("–", "") if step.change is None else _difference(step.change)[3:]
        rows.append(
            (", ".join(step.stages), step.made.short, f"{step.score:.3f}", *change, marks.get(step.made.key, ""))
        )
    title = f"{found.task.name}, {found.task.metric}{' (less is better)' if found.task.lower else ''}"
    heads = ("stage", "generation", "score", "change", "95 % interval", "")
    print_table(stdout(), title, heads, rows, right=(2, 3, 4))


def show_verdict(found: Verdict) -> None:
    """Prints what is wrong with the storage, and what mends it."""
    for problem in found.problems:
        typer.echo(f"{problem.place}: {problem.what}\n    {problem.mend}")
    looked = ", ".join(f"{number:,} {kind}" for kind, number in found.checked.items())
    wrong = f"{len(found.problems)} problems" if found.problems else "all as it was written"
    typer.echo(f"looked at {looked}: {wrong}")


def show_sweep(found: Sweep) -> None:
    """Prints what is kept and why, and what nothing needs."""
    console = stdout()
    rows = [(i.entry.stage, i.entry.short, short_count(i.bytes, "B"), "; ".join(i.reasons)) for i in found.kept]
    print_table(console, "kept", ("stage", "generation", "weights", "because"), rows, right=(2,))
    free = [(i.entry.stage, i.entry.short, short_count(i.bytes, "B")) for i in found.free]
    print_table(
        console, "removed" if found.deleted else "needed by nothing", ("stage", "generation", "weights"), free, (2,)
    )
    total = short_count(sum(item.bytes for item in found.free), "B")
    if not found.free:
        typer.echo("nothing to remove")
    else:
        of = f"the weights of {len(found.free)} generation{'s' * (len(found.free) > 1)}, {total}"
        typer.echo(f"removed {of}; records stay" if found.deleted else f"clray gc --delete removes {of}; records stay")


def show_moved(found: Moved) -> None:
    """Prints where an alias stands now."""
    before = f", before {found.before[:10]}" if found.before else ""
    typer.echo(f"{found.alias} of {found.stream}: {found.move.key[:10]} (version {found.move.version}){before}")


def show_reproduction(found: Reproduction) -> None:
    """Prints how what was made again compares with the record."""
    console = stdout()
    print_table(
        console, f"{found.made.stage_name} {found.made.short} made again", ("file", "bits"), list(found.files.items())
    )
    typer.echo(f"packed data: {found.shards}")
    if found.loss_apart is not None:
        typer.echo(f"losses: at most {found.loss_apart:.3g} apart (relative)")
    for name, (then, now) in found.environment.items():
        typer.echo(f"{name}: was {then}, is {now}")
    for key in found.also:
        typer.echo(f"made again before it, as its weights were collected: {key[:10]}")
    verdict = "the same bits in every file" if found.same else "not the same bits"
    typer.echo(f"{verdict}; {duration(found.seconds)}{'; put back' if found.restored else ''}")


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
    print_table(
        stdout(), f"{found.task.name}, {found.task.metric}", ("stage", "generation", "score", ""), rows, right=(2,)
    )
    if found.broke is None or found.before is None:
        typer.echo(f"it holds at {found.limit:g}")
    else:
        typer.echo(f"broke in {found.broke.stage_name} {found.broke.key}; still good in {found.before.short}")


def _weights_in_words(found: Portrait) -> str:
    if not found.weights["there"]:
        return f"gone: collected {found.weights['collected']}, {short_count(found.weights['bytes'], 'B')}"
    return short_count(found.weights["bytes"], "B")


def _gate_in_words(found: Portrait, verdict: dict[str, Any]) -> str:
    who = "" if len(found.gates) == 1 else f"{verdict['stream']}, {verdict['line']}: "
    return f"{who}{verdict['decision']}: {verdict['why']}"


def _move_in_words(move: dict[str, str]) -> str:
    return f"{move['action']} to {move['alias']} by {move['who'] or 'unknown'}, {move['when'][:16]}: {move['why']}"


def _settings(found: Portrait) -> dict[str, tuple[Any, str]]:
    """Each setting with where it came from; those of the resolved stage that were not inherited stand as given."""
    stage = {name: (value, "") for name, value in found.made.stage.items() if name not in ("optimiser",)}
    inherited = {name: (value, origin) for name, (value, origin) in found.made.inheritance.items()}
    return {**stage, **inherited}


def _setting(value: Any, origin: str) -> str:
    return f"{setting(value)}  ({origin})" if origin else setting(value)


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
    print_table(console, "data", ("stage", "rows shown", "of rows", "tokens", "record set"), rows, right=(1, 2, 3))
    for source in found.made.data.get("sources", []):
        for file in source.get("files") or [source]:
            mark = file.get("sha256") or file.get("fingerprint", "")
            typer.echo(f"source {file.get('name', source['source'])}  {mark}")
    draws = found.made.receipt.get("draws", [])
    rows = [
        (d["stage"], f"{d['asked']:,} {d['unit']}", f"{d['rows']:,}", f"{d['tokens']:,}", d["rows_digest"])
        for d in draws
    ]
    print_table(
        console, "replayed", ("stage", "asked", "rows drawn", "tokens", "digest of row numbers"), rows, right=(1, 2, 3)
    )


def _scores(console: Console, found: Portrait) -> None:
    rows = [
        (cell["task"], cell["digest"][:10], "  ".join(f"{k} {in_figures(v)}" for k, v in cell["metrics"].items()))
        for cell in found.scores
    ]
    print_table(console, "scores", ("task", "digest", ""), rows)


def _difference(found: Difference) -> tuple[str, str, str, str, str]:
    """Metric, before, after, change (starred where it is clear of 0), interval."""
    star = "*" if found.clear else ""
    return (
        found.metric,
        f"{found.before:.3f}",
        f"{found.after:.3f}",
        f"{found.change:+.3f}{star}",
        f"{found.low:+.3f}, {found.high:+.3f}",
    )


def _turned(flips: dict[str, Any]) -> str:
    return f"{flips['right']} / {flips['wrong']}" if flips else ""
