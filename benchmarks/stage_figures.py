"""Figures of gpu_stage.py: what is measured, what it comes to, and the table."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import dataclass, replace
from typing import Any

from clray import cost

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "1b": {
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
"""Those of Qwen2.5-0.5B and TinyLlama-1.1B, in Llama's form, and one for a smoke test."""
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "GH200": 989e12, "A100": 312e12}
"""Dense bf16, a second."""
LOSS_TOLERANCE = 1e-3
"""Relative difference of the last losses that a resumed stage may show where kernels are not deterministic."""


@dataclass(frozen=True)
class Stage:
    """One configuration: what is trained, and how."""

    model: str
    adapter: str
    zero_stage: int = 0
    attention: str = "sdpa"
    compile: bool = False

    @property
    def name(self) -> str:
        """All of it in one word."""
        compiled = "-compiled" if self.compile else ""
        return f"{self.model}-{self.adapter}-zero{self.zero_stage}-{self.attention}{compiled}"


@dataclass(frozen=True)
class Settings:
    """Sizes of a run. `warm_up` steps are not counted."""

    models: tuple[str, ...]
    rows: int
    length: int
    batch: int
    micro_batch: int
    steps: int
    warm_up: int
    every_steps: int
    stop_at: int
    precision: str = "bf16"


GPU = Settings(
    models=("0.5b", "1b"), rows=256, length=2048, batch=16, micro_batch=8, steps=14, warm_up=4, every_steps=5, stop_at=8
)
SMOKE = Settings(
    models=("tiny",), rows=16, length=128, batch=4, micro_batch=2, steps=8, warm_up=2, every_steps=2, stop_at=5
)


def peak_of(device: str) -> float | None:
    """FLOP/s of the device in dense bf16, where it is known."""
    return next((PEAK_FLOPS[word] for word in device.replace("-", " ").split() if word in PEAK_FLOPS), None)


def summary(
    stage: Stage, steps: list[dict[str, Any]], facts: dict[str, Any], settings: Settings, peak: float | None
) -> dict[str, Any]:
    """Tokens/s (median over the steps after the warm-up), MFU, seconds of each step, and the losses."""
    pairs = list(itertools.pairwise(steps))[settings.warm_up - 1 :]
    seconds = [after["seconds"] - before["seconds"] for before, after in pairs]
    speeds = [(b["tokens"] - a["tokens"]) / s for (a, b), s in zip(pairs, seconds, strict=True)]
    speed, mixture = statistics.median(speeds), facts["mixture"]
    share = mixture["targets"] / mixture["tokens"]

    def reached(length: float) -> float:
        return cost.flops(facts["shape"], speed, speed * share, length, {"kind": stage.adapter})

    flops, inside = reached(settings.length), reached(mixture["seen_by_a_token"])
    return {
        "tokens_per_second": speed,
        "slowest_and_fastest": [min(speeds), max(speeds)],
        "flops_per_second": flops,
        "mfu": flops / peak if peak else None,
        "mfu_by_document": inside / peak if peak else None,
        "step_seconds": seconds,
        "first_step_seconds": steps[0]["seconds"],
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
    }


def verdict(
    settings: Settings, resumed_after: int, seconds: float, resumed: dict[str, Any], whole: dict[str, Any]
) -> dict[str, Any]:
    """Whether the killed stage went on from a checkpoint and ended as the whole one."""
    equal = resumed["weights"] == whole["weights"]
    difference = abs(resumed["last_loss"] - whole["last_loss"]) / abs(whole["last_loss"])
    same = resumed["steps"] == whole["steps"] == settings.steps and (equal or difference <= LOSS_TOLERANCE)
    return {
        "status": "ok" if same and resumed_after >= 1 else "failed",
        "reason": None if resumed_after >= 1 else "it began anew: no checkpoint was taken up",
        "killed_after_step": settings.stop_at,
        "resumed_after_step": resumed_after,
        "seconds_to_next_step": seconds,
        "weights_equal": equal,
        "last_loss": resumed["last_loss"],
        "last_loss_uninterrupted": whole["last_loss"],
        "relative_difference": difference,
    }


def stages(models: tuple[str, ...], attentions: list[str]) -> list[Stage]:
    """All configurations, the most telling first; ZeRO and torch.compile with the last, best attention."""
    best = [Stage(model, adapter, attention=attentions[-1]) for model in models for adapter in ("full", "lora")]
    others = [replace(stage, attention=name) for name in reversed(attentions[:-1]) for stage in best]
    zero = {number: [replace(stage, zero_stage=number) for stage in best] for number in (1, 2, 3)}
    compiled = sorted((replace(stage, compile=True) for stage in best), key=lambda stage: stage.adapter)
    return [*best, *others, *zero[2], *zero[3], *compiled[: len(models)], *zero[1], *compiled[len(models) :]]


def loss_spread(lines: list[dict[str, Any]]) -> dict[str, float]:
    """For each model and adapter, how far apart its last losses are, relative to the least.

    Attention, ZeRO and torch.compile change how a stage is computed, not what comes out.
    """
    found: dict[str, list[float]] = {}
    for line in lines:
        if line["status"] == "ok":
            found.setdefault(f"{line['model']}-{line['adapter']}", []).append(line["last_loss"])
    return {name: max(losses) / min(losses) - 1 for name, losses in found.items()}


def show(lines: list[dict[str, Any]], checks: list[dict[str, Any]], spread: dict[str, float]) -> None:
    """The table, on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The stage loop alone")
    for name in ("model", "adapter", "ZeRO", "attention", "compiled", "tokens/s", "MFU", "s/step", "peak GiB", ""):
        table.add_column(name, justify="right" if name in ("tokens/s", "MFU", "s/step", "peak GiB") else "left")
    for line in lines:
        what = [line["model"], line["adapter"], str(line["zero_stage"]), line["attention"], "yes" * line["compile"]]
        if line["status"] != "ok":
            table.add_row(*what, "", "", "", "", line["status"])
            continue
        mfu = f"{line['mfu']:.1%}" if line["mfu"] else "-"
        memory = f"{line['peak_bytes'] / 2**30:.1f}" if line["peak_bytes"] else "-"
        step = statistics.median(line["step_seconds"])
        table.add_row(*what, f"{line['tokens_per_second']:,.0f}", mfu, f"{step:.3f}", memory, "")
    console = Console(stderr=True, width=110)
    console.print(table)
    for line in lines:
        if line["status"] != "ok":
            console.print(f"{line['name']}: {line['status']}: {line['reason']}", markup=False)
    for name, difference in spread.items():
        console.print(f"{name}: the last losses of all its lines are {difference:.1e} apart", markup=False)
    for line in checks:
        console.print(f"killed and resumed, {line['name']}: {line['status']}: {sentence(line)}", markup=False)


def sentence(line: dict[str, Any]) -> str:
    """What a kill-and-resume check found, for people."""
    if line.get("reason"):
        return str(line["reason"])
    return (
        f"killed after step {line['killed_after_step']}, went on after {line['resumed_after_step']}; weights "
        f"{'equal' if line['weights_equal'] else 'not equal'} bit by bit, last losses differ by "
        f"{line['relative_difference']:.1e}"
    )
