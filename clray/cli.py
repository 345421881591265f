"""The commands. Each loads its inputs, calls one function and shows what comes back."""

from __future__ import annotations

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from clray import cli_lineage
from clray.cli_parts import Json
from clray.cli_parts import print_json as _print_json
from clray.cli_parts import quiet_stdout as _quiet_stdout
from clray.errors import Terminated, UserError


class Commands(TyperGroup):
    """The commands; Ctrl-C and SIGTERM save what runs, and say how to go on."""

    def invoke(self, ctx: Any) -> Any:
        """What the command returns; exit code 130 after Ctrl-C, 143 after SIGTERM."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            print("clray: interrupted; run the same command again to go on where it stopped", file=sys.stderr)
            raise typer.Exit(143 if isinstance(stop, Terminated) else 130) from None


app = typer.Typer(
    cls=Commands,
    name="clray",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Keeps large language models current: a stream of stages in, recorded generations out.",
)
app.add_typer(cli_lineage.app)
StreamFile = Annotated[Path, typer.Argument(help="the stream's YAML file")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value settings, say seed=1 method.replay.share=0.2")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="wait for a generation that another driver builds")]


class Precision(StrEnum):
    """Precisions of an exported model."""

    fp32 = "fp32"
    bf16 = "bf16"


def main() -> None:
    """The entry point: a user's mistake is one message and exit code 2."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except UserError as error:
        print(f"clray: {error}", file=sys.stderr)
        sys.exit(2)


def _terminate(*_: object) -> None:
    raise Terminated


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
    """Show what a stream or a sweep comes to: stages, tokens, steps, cost, cached or to build. Trains nothing."""
    import clray
    from clray.spec import sweep_loading

    if sweep_loading.is_sweep(stream):
        _plan_sweep(stream, overrides, as_json)
        return
    with _quiet_stdout(as_json):
        summary = clray.plan(_load(stream, overrides))
    _print_json(summary.to_dict()) if as_json else summary.show()


@app.command()
def run(stream: StreamFile, overrides: Overrides = None, as_json: Json = False, wait: Wait = True) -> None:
    """Run a stream: train what is not in the store, measure it on everything, record it."""
    from clray.conductor import run as conduct
    from clray.console import Live, show_outcome

    with _quiet_stdout(as_json), Live() as live:
        outcome = conduct(_load(stream, overrides), live, wait)
    if as_json:
        _print_json(outcome.to_dict())
        return
    show_outcome(outcome)
    typer.echo(f"report: {outcome.report}")


@app.command()
def benchmark(stream: StreamFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run a stream for each combination of its grid: base models, orders, seeds; tables over all of them."""
    from clray.benchmark import run as conduct
    from clray.console import Live, show_benchmark

    with _quiet_stdout(as_json), Live() as live:
        made = conduct(_load(stream, overrides), live, live.say)
    if as_json:
        _print_json(made.to_dict())
        return
    show_benchmark(made.to_dict())
    typer.echo(f"benchmark: {made.folder}/benchmark.html")


@app.command()
def sweep(
    sweep: Annotated[Path, typer.Argument(help="the sweep's YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, say search.trials=48 stream.seed=1")] = None,
    as_json: Json = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run trials again that failed before")] = False,
) -> None:
    """Search a stream's settings: trials on Ray Tune that share what they have in common. Run again, it goes on."""
    from clray.console_sweep import SweepTable, show_result
    from clray.search.driver import run as conduct
    from clray.spec.sweep_loading import load

    with _quiet_stdout(as_json), SweepTable() as table:
        result = conduct(load(sweep, overrides or ()), table, retry_failed)
    if as_json:
        _print_json(result.to_dict())
        return
    show_result(result.to_dict())
    typer.echo(f"sweep: {result.folder}/sweep.html")
    if result.best is not None:
        typer.echo(f"best stream: {result.folder}/best.yaml")


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

    with _quiet_stdout(as_json), Live() as live:
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


@app.command()
def export(
    stream: StreamFile,
    generation: Annotated[str, typer.Argument(help="the beginning of a key, a stage, an index, or newest")],
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    overrides: Overrides = None,
    adapter: Annotated[
        bool, typer.Option("--adapter/--merged", help="the PEFT adapter, or one for each block; or a complete model")
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(help="of blocks that prompts select from: merge them for one stage, or number of a block from 1"),
    ] = None,
    precision: Annotated[Precision | None, typer.Option(help="of a merged model; default: as stored")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a former export")] = False,
) -> None:
    """Write a generation as a plain Hugging Face folder, which loads without clray.

    Blocks that each prompt selects from (adapter kind sapt) come with the code that selects, to be loaded with
    trust_remote_code=True; with --task they are ordinary weights for one task.
    """
    import clray
    from clray.exporting import find

    of = _load(stream, overrides)
    folder = clray.export(
        of.storage,
        find(of, generation),
        out,
        adapter=adapter,
        task=task,
        precision=precision.value if precision else None,
        force=force,
        trust_remote_code=of.model.trust_remote_code,
    )
    typer.echo(f"wrote {folder}")


@app.command()
def mine(
    generation: Annotated[str, typer.Argument(help="the beginning of a generation's key")],
    questions: Annotated[list[str], typer.Option("--questions", help="files of question, answer, choices, subject")],
    knowledge: Annotated[list[str], typer.Option("--knowledge", help="files of text, title")],
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="key=value of the stage or stream, say evolve.points.most=3"),
    ] = None,
    storage: Annotated[str, typer.Option(help="where the generation lies")] = "clray-store",
    as_json: Json = False,
) -> None:
    """Mine a generation's mistakes for a training set, as Parquet with a manifest, and train nothing."""
    from clray.console import Live
    from clray.corpus import corpus_stream, mine_corpus
    from clray.exporting import by_key
    from clray.lineage.store import Store

    with _quiet_stdout(as_json), Live() as live:
        stream = corpus_stream(storage, questions, knowledge, settings or ())
        made = by_key(Store(storage), generation)
        manifest = mine_corpus(
            stream, made.key, out, live.say, lambda done, of: live.measuring(made.stage_name, "exam", done, of)
        )
    if as_json:
        _print_json(manifest)
    else:
        typer.echo(f"wrote {out}: {', '.join(f'{n:,} {kind}' for kind, n in manifest['rows'].items() if n)} rows")


@app.command()
def submit(
    stream: StreamFile,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option("--address", help="URL of the cluster's dashboard; default: RAY_API_SERVER_ADDRESS")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="print the job's id and do not follow it")] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", help="name of a variable that the job gets, with its value here")
    ] = None,
    python: Annotated[str, typer.Option(help="the cluster's Python")] = "python",
    code: Annotated[
        bool, typer.Option("--code/--cluster-code", help="run the clray that is here, or the cluster's")
    ] = True,
    patience: Annotated[float, typer.Option(help="seconds to wait for a job server that comes up")] = 60,
) -> None:
    """Run a stream as a job of a cluster and follow it. Sends the stream and the files it names, and no others.

    Relative paths are files here, which go along; absolute paths and URIs are the cluster's. Sent again, a running
    job is followed, an ended one goes on where it stopped. The exit code is the job's.
    """
    import clray

    job = clray.submit(_load(stream, overrides), address, env=env or (), python=python, code=code, patience=patience)
    if detach:
        typer.echo(job.id)
    else:
        raise typer.Exit(job.follow())


@app.command()
def doctor(
    stream: Annotated[Path | None, typer.Argument(help="the stream's YAML file")] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check driver, nodes, storage, tracking and resources before anything is spent. Exit code 2 where one fails."""
    import clray

    diagnosis = clray.doctor(_load(stream, overrides) if stream else None)
    _print_json(diagnosis.to_dict()) if as_json else diagnosis.show()
    raise typer.Exit(diagnosis.exit_code)


def _plan_sweep(path: Path, overrides: list[str] | None, as_json: bool) -> None:
    from clray.console_sweep import show_plan
    from clray.search.planning import plan_sweep
    from clray.spec.sweep_loading import load

    with _quiet_stdout(as_json):
        plan = plan_sweep(load(path, overrides or ())).to_dict()
    _print_json(plan) if as_json else show_plan(plan)


def _load(path: Path, overrides: list[str] | None) -> Any:
    from clray.spec.loading import load

    return load(path, overrides or ())
