"""The commands. Each loads its inputs, calls one function and shows what comes back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from clray.errors import UserError

app = typer.Typer(
    name="clray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Keeps large language models current: a stream of stages in, recorded generations out.",
)
StreamFile = Annotated[Path, typer.Argument(help="the stream's YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value settings, say seed=1 method.replay.share=0.2")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


def main() -> None:
    """The entry point: a user's mistake is one message and exit code 2, Ctrl-C says how to go on."""
    try:
        app()
    except UserError as error:
        print(f"clray: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("clray: interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="file to write")] = Path("stream.yaml")) -> None:
    """Write a commented stream to start from."""
    from clray.spec.template import write_template

    write_template(path)
    typer.echo(f"wrote {path}; look at it, then: clray plan {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of stream files, for editors."""
    from clray.spec.loading import schema as stream_schema

    typer.echo(json.dumps(stream_schema(), indent=1))


@app.command()
def plan(stream: StreamFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show what a stream comes to: stages, tokens, steps, cost, cached or to build. Trains nothing."""
    import clray

    summary = clray.plan(_load(stream, overrides))
    _print_json(summary.to_dict()) if as_json else summary.show()


@app.command()
def run(stream: StreamFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run a stream: train what is not in the store, measure it on everything, record it."""
    from clray.conductor import run as conduct
    from clray.console import Live, show_outcome

    with Live() as live:
        outcome = conduct(_load(stream, overrides), live)
    if as_json:
        _print_json(outcome.to_dict())
        return
    show_outcome(outcome)
    typer.echo(f"report: {outcome.report}")


@app.command()
def generations(stream: StreamFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Show the lineage of a stream's store as a tree."""
    from clray.console import show_generations
    from clray.lineage.tree import lineage_rows

    rows = lineage_rows(_load(stream, overrides))
    if as_json:
        _print_json([{**generation.to_dict(), **facts} for generation, facts in rows])
    else:
        show_generations(rows)


@app.command()
def evaluate(stream: StreamFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Measure the generations that are there on the stream's tasks. Trains nothing."""
    from clray.conductor import evaluate as measure
    from clray.console import Live, show_outcome

    with Live() as live:
        outcome = measure(_load(stream, overrides), live)
    _print_json(outcome.to_dict()) if as_json else show_outcome(outcome)


@app.command()
def report(
    stream: StreamFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
) -> None:
    """Write the self-contained HTML report of the generations that are there."""
    from clray.conductor import look
    from clray.report.page import write_report

    typer.echo(f"wrote {write_report(look(_load(stream, overrides)).to_dict(), out)}")


def _load(path: Path, overrides: list[str] | None) -> Any:
    from clray.spec.loading import load

    return load(path, overrides or ())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))
