"""The commands over the lineage of a storage folder. Each calls one function and shows what comes back."""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clray.cli_parts import Json, print_json, quiet_stdout, uncollected

app = typer.Typer()
Storage = Annotated[str, typer.Option("--storage", help="the storage folder or URI of the streams")]
Tracking = Annotated[
    str | None,
    typer.Option("--tracking", help="MLflow tracking URI; default: where the streams were recorded; none: without"),
]
Wanted = Annotated[str, typer.Argument(help="the beginning of a key, an alias, or STREAM@ALIAS")]
Maybe = Annotated[str | None, typer.Argument(help="the beginning of a key, or an alias; default: the newest")]
OfStream = Annotated[
    str | None, typer.Option("--stream", help="the stream, where several know the generation or alias")
]
By = Annotated[str, typer.Option("--by", help="who asks for it", show_default="the login name")]
DEFAULT = "clray-store"


@app.command()
def log(storage: Storage = DEFAULT, tracking: Tracking = None, as_json: Json = False) -> None:
    """Show the tree of all generations: branches, scores, aliases, cost."""
    from clray.history import log as logs
    from clray.history.archive import Archive
    from clray.history.terminal import show_log

    with uncollected():
        found = logs.log(Archive(storage, tracking))
        print_json(found.to_dict()) if as_json else show_log(found)


@app.command()
def show(generation: Wanted, storage: Storage = DEFAULT, tracking: Tracking = None, as_json: Json = False) -> None:
    """Show everything about one generation: settings, data, replay, scores, cost, environment, children."""
    from clray.history import show as portraits
    from clray.history.archive import Archive
    from clray.history.terminal import show_portrait

    found = portraits.show(Archive(storage, tracking), generation)
    print_json(found.to_dict()) if as_json else show_portrait(found)


@app.command()
def diff(
    first: Wanted,
    second: Wanted,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    flips: Annotated[int, typer.Option(min=0, help="answers shown of each task that turned right, and wrong")] = 3,
    as_json: Json = False,
) -> None:
    """Show what changed between two generations: settings, data, scores with intervals, answers that turned."""
    from clray.history import diff as diffs
    from clray.history.archive import Archive
    from clray.history.terminal import show_diff

    found = diffs.diff(Archive(storage, tracking), first, second, flips)
    print_json(found.to_dict()) if as_json else show_diff(found)


@app.command()
def blame(
    task: Annotated[str, typer.Argument(help="name of a task, or the beginning of its digest")],
    generation: Maybe = None,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Show which stage gave a task how much, and which cost it how much, along a generation's ancestry."""
    from clray.history import blame as blames
    from clray.history.archive import Archive
    from clray.history.terminal import show_blame

    found = blames.blame(Archive(storage, tracking), task, generation)
    print_json(found.to_dict()) if as_json else show_blame(found)


@app.command()
def verify(
    generation: Annotated[str | None, typer.Argument(help="one generation alone; default: the whole storage")] = None,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Read what lies on the storage again and compare digests. Exit code 2 where something is not what was written."""
    from clray.history import verify as verifying
    from clray.history.archive import Archive
    from clray.history.terminal import show_verdict

    found = verifying.verify(Archive(storage, tracking), generation)
    print_json(found.to_dict()) if as_json else show_verdict(found)
    raise typer.Exit(2 if found.problems else 0)


@app.command()
def deliver(storage: Storage = DEFAULT, tracking: Tracking = None, as_json: Json = False) -> None:
    """Tell MLflow what it was not told because it did not answer. Exit code 2 where something still waits."""
    from clray.lineage.delivery import deliver as deliver_all
    from clray.lineage.store import Store

    found = deliver_all(Store(storage), _say, tracking)
    if as_json:
        print_json(found.to_dict())
    else:
        typer.echo("\n".join([f"{found.delivered} records delivered, {found.waiting} wait", *found.reasons]))
    raise typer.Exit(2 if found.waiting else 0)


@app.command()
def gc(
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="a generation whose weights stay too")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="remove them; without it they are only listed")] = False,
    as_json: Json = False,
) -> None:
    """List the weights that nothing needs, or remove them. Records, scores and data stay."""
    from clray.history.archive import Archive
    from clray.history.garbage import sweep
    from clray.history.terminal import show_sweep

    found = sweep(Archive(storage, tracking), keep or (), delete)
    print_json(found.to_dict()) if as_json else show_sweep(found)


@app.command()
def promote(
    generation: Wanted,
    to: Annotated[str, typer.Option("--to", help="the alias, say champion")],
    why: Annotated[str, typer.Option("--why", help="the reason, for whoever reads it later")],
    by: By = "",
    stream: OfStream = None,
    force: Annotated[bool, typer.Option("--force", help="promote it although its gate rejects it")] = False,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Move an alias to a generation, and write down who, when and why."""
    from clray.history import promotion
    from clray.history.archive import Archive
    from clray.history.terminal import show_moved

    archive, who = Archive(storage, tracking), by or getpass.getuser()
    found = promotion.promote(archive, generation, to, why, who, stream, force)
    print_json(found.to_dict()) if as_json else show_moved(found)


@app.command()
def rollback(
    alias: Annotated[str, typer.Argument(help="the alias, say champion")],
    why: Annotated[str, typer.Option("--why", help="the reason, for whoever reads it later")] = "rolled back",
    by: By = "",
    stream: OfStream = None,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Move an alias back to the generation where it stood before."""
    from clray.history import promotion
    from clray.history.archive import Archive
    from clray.history.terminal import show_moved

    found = promotion.rollback(Archive(storage, tracking), alias, why, by or getpass.getuser(), stream)
    print_json(found.to_dict()) if as_json else show_moved(found)


@app.command()
def reproduce(
    generation: Wanted,
    scratch: Annotated[
        Path | None, typer.Option(help="folder for what is made again, to be kept; default: a temporary one")
    ] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="put collected or damaged weights back, where the bits are the record's")
    ] = False,
    stream: Annotated[Path | None, typer.Option(help="stream file with workers and devices, for old records")] = None,
    tolerance: Annotated[float, typer.Option(help="largest relative difference of a step's loss, on GPUs say")] = 1e-3,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Make a generation again from its record, in another folder, and compare. Exit code 2 where it is another."""
    from clray.history.archive import Archive
    from clray.history.reproduce import reproduce as make_again
    from clray.history.terminal import show_reproduction

    archive, of = Archive(storage, tracking), _load(stream)
    with quiet_stdout(as_json), _folder(scratch) as folder:
        found = make_again(archive, generation, folder, _say, restore, of)
    print_json(found.to_dict()) if as_json else show_reproduction(found)
    raise typer.Exit(0 if found.within(tolerance) else 2)


@app.command()
def bisect(
    task: Annotated[str, typer.Argument(help="name of a task, or the beginning of its digest")],
    generation: Maybe = None,
    below: Annotated[float | None, typer.Option("--below", help="broken is a score below this")] = None,
    above: Annotated[
        float | None, typer.Option("--above", help="broken is a score above, where less is better")
    ] = None,
    stream: Annotated[Path | None, typer.Option(help="stream file by which missing scores are measured")] = None,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Find the first generation where a task broke. Measures what is missing on the way, on Ray."""
    from clray.history import bisect as search
    from clray.history.archive import Archive
    from clray.history.terminal import show_bisection

    with quiet_stdout(as_json):
        found = search.bisect(Archive(storage, tracking), task, below, above, generation, _load(stream), _say)
    print_json(found.to_dict()) if as_json else show_bisection(found)


@app.command()
def adopt(
    path: Annotated[Path, typer.Argument(help="a Hugging Face model or PEFT adapter folder, safetensors")],
    parent: Annotated[str | None, typer.Option(help="the generation it stands on; default: it is a root")] = None,
    name: Annotated[str, typer.Option(help="name of the stage that made it")] = "adopted",
    stream: Annotated[
        str | None, typer.Option(help="stream under which MLflow registers it; default: the parent's, else adopted")
    ] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run code of the model")] = False,
    storage: Storage = DEFAULT,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Take an existing model or adapter into the lineage, as a root or the child of a generation."""
    from clray.history import adopt as adopting

    with quiet_stdout(as_json):
        made = adopting.adopt(
            storage,
            str(path),
            parent=parent,
            name=name,
            stream=stream,
            tracking=tracking,
            trust_remote_code=trust_remote_code,
            say=_say,
        )
    if as_json:
        print_json(made.to_dict())
    else:
        typer.echo(
            f"{made.stage_name} {made.key}: generation {made.index}, {'root' if made.parent is None else 'child'}"
        )


def _load(path: Path | None) -> Any:
    from clray.spec.loading import load

    return None if path is None else load(path)


def _say(text: str) -> None:
    typer.echo(text, err=True)


@contextmanager
def _folder(scratch: Path | None) -> Iterator[Path]:
    """The folder, or a temporary one that is gone afterwards."""
    if scratch is not None:
        yield scratch
        return
    with tempfile.TemporaryDirectory(prefix="clray-reproduce-") as folder:
        yield Path(folder)
