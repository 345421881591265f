"""The report: one self-contained HTML page about a stream and its controls."""

from __future__ import annotations

import os
import uuid
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from clray.report import (
    attention,
    evolving,
    evolving_examples,
    evolving_figures,
    figures,
    gates,
    heatmap,
    instructions,
    lineage_tree,
    probes,
    pseudo,
    replay,
    summary,
    tables,
    transfer,
)
from clray.report import transfer_figures as between
from clray.report.numbers import duration
from clray.report.view import View

SECTIONS = (
    ("summary", "Summary"),
    ("matrix", "Score matrix"),
    ("probes", "Probes"),
    ("gate", "Gate"),
    ("forgetting", "Forgetting"),
    ("loss", "Loss"),
    ("transfer", "Transfer"),
    ("attention", "Attention"),
    ("evolving", "Mistakes"),
    ("mixture", "Mixture"),
    ("replay", "Replay"),
    ("lineage", "Lineage"),
    ("generations", "Generations"),
    ("spec", "Spec"),
)


def write_report(outcome: dict[str, Any], path: str | Path) -> Path:
    """The path of the page that shows `outcome`: one HTML file that loads nothing from anywhere.

    `outcome` holds the stream, the environment, and the lines (the stream itself first, then its controls)
    with their score matrices, metrics and generations, as plain values.
    """
    return write_page(render(outcome), path)


def write_page(text: str, path: str | Path) -> Path:
    """The path of the file, which then holds the text; written whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, target)
    return target


def templates() -> Environment:
    """The templates of all pages; what is put into them is escaped."""
    return Environment(
        loader=FunctionLoader(read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(outcome: dict[str, Any]) -> str:
    """The page as HTML text."""
    view = View.of(outcome)
    attentions = attention.attentions(view)
    measured = transfer.measured(view)
    evolved = evolving.evolutions(view)
    probed, gated = probes.probes(view), gates.gates(view)
    optional = (
        ("attention", attentions),
        ("transfer", measured),
        ("evolving", evolved),
        ("probes", probed),
        ("gate", gated),
    )
    absent = {name for name, found in optional if not found}
    return (
        templates()
        .get_template("page.html")
        .render(
            view=view,
            stream=outcome["stream"],
            created=outcome.get("created", ""),
            seconds=duration(outcome.get("seconds") or None),
            style=Markup(read("style.css")),
            sections=[section for section in SECTIONS if section[0] not in absent],
            counts=(
                (len(view.stream.stages) - 1, "stage"),
                (len(view.tasks), "task"),
                (len(view.controls), "control"),
            ),
            blocks=summary.headline(view),
            heatmaps=heatmap.heatmaps(view),
            legends=heatmap.legends(view),
            forgetting=figures.forgetting_panels(view),
            losses=figures.loss_panels(view),
            courses=figures.course_groups(view),
            frame=figures,
            probed=probed,
            gates=gated,
            measured=measured,
            medians=transfer.medians(measured),
            median_columns=transfer.MEDIAN_COLUMNS,
            domains=transfer.tables(measured),
            domain_columns=transfer.DOMAIN_COLUMNS,
            change_maps=between.change_maps(view, measured),
            change_limit=100 * between.change_limit(measured),
            distance_panels=between.distance_panels(measured),
            learning_panels=between.learning_panels(measured),
            likeness=between.likeness(view, measured),
            attentions=attentions,
            pseudos=pseudo.pseudo_samples(view),
            evolved=evolved,
            evolve_columns=evolving.COLUMNS,
            evolve_kinds=evolving.KIND_COLUMNS,
            funnel=evolving_figures.funnel,
            funnel_rows=evolving_figures.funnel_rows,
            funnel_columns=evolving_figures.FUNNEL_COLUMNS,
            subjects=evolving_figures.subjects,
            examples=evolving_examples.examples,
            mixtures=tables.mixtures(view),
            quotas=replay.quotas(view),
            distances=replay.distances(view),
            distance_scale=replay.distance_scale(view),
            rankings=instructions.rankings(view),
            tree=lineage_tree.lineage_tree(view),
            box=lineage_tree,
            costs=tables.costs(view),
            cost_columns=tables.COST_COLUMNS,
            settings=tables.settings(view),
            environment=tables.environment_rows(outcome.get("environment", {})),
        )
    )


def read(name: str) -> str:
    """A file of this folder."""
    return resources.files("clray.report").joinpath(name).read_text(encoding="utf-8")
