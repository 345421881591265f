"""Does SAPT's attention find a prompt's own block? Queries, keys and reflection alone, without training any block.

    python benchmarks/sapt_routing.py jobs/sapt_superni.yaml BASE --seeds 0 1 2

For each task of the stream in turn a key is placed and reflection is trained, as in a stage, on pooled prompts of the
base model's embedding table; there is no language-model loss, which in training pulls new prompts to the new block.
Printed for test prompts: how often the heaviest block is their task's own, and its mean weight. `nearest mean` sorts
the same vectors by the nearest mean of a task's training prompts: what they hold. Run it where the job's paths begin.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

import torch

from clray.data import formatting, records
from clray.lineage.store import Store
from clray.models.attention import SharedAttention, centre_on, initialise_key, pooled_prompts, reflection
from clray.spec import loading
from clray.spec.source import Source

PROMPTS, REMEMBERED, BATCH, WEIGHT = 100, 32, 16, 0.5
PHI = ("down", "up", "norm_weight", "norm_bias")
Tasks = list[tuple[torch.Tensor, torch.Tensor]]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("base", help="folder of the base model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rate", type=float, default=3e-3)
    asked = parser.parse_args()
    tasks = pooled_tasks(asked.stream, asked.base)
    means = torch.stack([train.mean(0) for train, _ in tasks])
    nearest = [(torch.cdist(test, means).argmin(1) == i).float().mean().item() for i, (_, test) in enumerate(tasks)]
    print(
        f"| centre | own | heaviest is its own | mean weight of its own |\n|---|---|---|---|\n"
        f"| nearest mean | | {statistics.fmean(nearest):.2f} | |"
    )
    for centre, own in itertools.product((False, True), repeat=2):
        found = [routing(tasks, centre, own, seed, asked.steps, asked.rate) for seed in asked.seeds]
        cells = [f"{statistics.fmean(v):.2f} ± {statistics.stdev(v):.2f}" for v in zip(*found, strict=True)]
        print(f"| {'yes' if centre else 'no'} | {'yes' if own else 'no'} | {' | '.join(cells)} |", flush=True)


def pooled_tasks(stream: str, base: str) -> Tasks:
    """Pooled prompts of each stage's training rows (n, d) and of its task's test rows (m, d)."""
    from transformers import AutoModelForCausalLM

    spec, tokenizer = loading.load(stream), records.tokenizer(base)
    table = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True).get_input_embeddings()
    test = {task.name: task.data for task in spec.tasks}
    return [
        tuple(_pooled(sources[0], spec, tokenizer, table) for sources in (stage.data, test[stage.name]))  # type: ignore[misc]
        for stage in spec.stages
    ]


def _pooled(source: Source, spec: Any, tokenizer: Any, table: Any) -> torch.Tensor:
    opened = records.open_sources([source], Store("."))
    found = [
        record for unit in opened[0].units for record, _ in itertools.islice(records.checked(unit, "instruct"), PROMPTS)
    ]
    vectors = []
    for record in found[:PROMPTS]:
        prompt = formatting.encode_prompt(tokenizer, record, spec.format)
        ids = torch.tensor([formatting.fit_prompt(prompt, 16, spec.sequence_length, spec.format, "")])
        vectors.append(pooled_prompts(table(ids), torch.ones_like(ids))[0])
    return torch.cat(vectors).detach()


def routing(tasks: Tasks, centre: bool, own: bool, seed: int, steps: int, rate: float) -> tuple[float, float]:
    """Share of test prompts whose heaviest block is their task's, and that block's mean weight, after all tasks."""
    generator = torch.Generator().manual_seed(seed)
    memory: list[tuple[torch.Tensor, torch.Tensor]] = []
    attention: Any = None
    for number, (prompts, _) in enumerate(tasks):
        before, attention = attention, SharedAttention(prompts.shape[1], number, trained=True, generator=generator)
        if before is not None:
            for name in PHI:
                getattr(attention, name).data.copy_(getattr(before, name))
            attention.old_keys.copy_(torch.cat([before.old_keys, before.key.detach()]))
        if centre:
            centre_on(attention, [*(past for past, _ in memory), prompts])
        initialise_key(attention, prompts)
        with torch.no_grad():
            beginning = [(prompts[:REMEMBERED], attention(prompts).mean(0))] if own else []
        _reflect(attention, memory, beginning, steps, rate, generator)
        with torch.no_grad():
            memory.append((prompts[:REMEMBERED], attention(prompts).mean(0)))
    with torch.no_grad():
        weights = [attention(test) for _, test in tasks]
    right = [(w.argmax(1) == i).float().mean().item() for i, w in enumerate(weights)]
    return statistics.fmean(right), statistics.fmean(w[:, i].mean().item() for i, w in enumerate(weights))


def _reflect(attention: Any, memory: Any, beginning: Any, steps: int, rate: float, generator: torch.Generator) -> None:
    optimiser = torch.optim.AdamW(attention.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    every = [*memory, *beginning]
    for step in range(steps if memory else 0):
        rows = [torch.randint(len(pooled), (BATCH,), generator=generator) for pooled, _ in every]
        optimiser.zero_grad()
        (WEIGHT * min(1.0, (step + 1) / (0.1 * steps)) * reflection(attention, every, rows)).backward()
        optimiser.step()


if __name__ == "__main__":
    main()
