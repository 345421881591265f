"""What soft prompts cost and learn beside one LoRA, with PEFT, on real rows: whether `prompt` adapters are worth it.

    python benchmarks/prompt_tuning.py MODEL_FOLDER TRAIN.jsonl DEV.jsonl [--steps 120] [--threads 1]

One LoRA (rank 8, all linear modules), a prompt of 20 virtual tokens (Lester et al., arXiv 2104.08691), and one of 300,
as Progressive Prompts (arXiv 2301.12314) has for a fifteenth task. Each trains on the same batches of 8 rows, at the
learning rate of three that is best on dev; rows are padded, since a packed row would need a prompt before each of its
examples, which PEFT does not have. Times are CPU seconds of the process; dev loss is nats a target token.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH, LENGTH = 8, 160
KINDS: dict[str, tuple[Any, tuple[float, ...]]] = {
    "LoRA, rank 8": (
        lambda: LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type=TaskType.CAUSAL_LM),
        (1e-3, 3e-3, 1e-2),
    ),
    "prompt of 20 tokens": (
        lambda: PromptTuningConfig(num_virtual_tokens=20, task_type=TaskType.CAUSAL_LM),
        (1e-2, 3e-2, 1e-1),
    ),
    "prompt of 300 tokens": (
        lambda: PromptTuningConfig(num_virtual_tokens=300, task_type=TaskType.CAUSAL_LM),
        (1e-2, 3e-2, 1e-1),
    ),
}


def rows_of(path: str, tokenizer: Any, count: int) -> list[tuple[list[int], int]]:
    """Ids and prompt length of the first `count` rows that fit."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        prompt = tokenizer(f"{record['instruction']}\n\n{record['input']}\n\nAnswer:")["input_ids"]
        answer = tokenizer(f" {record['output']}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if len(prompt) + len(answer) <= LENGTH:
            found.append((prompt + answer, len(prompt)))
    return found[:count]


def batch_of(rows: list[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
    """The rows padded, with loss on answers only."""
    ids = torch.zeros((len(rows), LENGTH), dtype=torch.long)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for number, (tokens, start) in enumerate(rows):
        ids[number, : len(tokens)] = torch.tensor(tokens)
        labels[number, start : len(tokens)] = ids[number, start : len(tokens)]
        mask[number, : len(tokens)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def trained(folder: str, config: Any, rate: float, train: list[Any], dev: list[Any], steps: int) -> dict[str, float]:
    """Dev loss after the steps, CPU seconds a step, and how many weights were trained."""
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    order = torch.randperm(steps * BATCH, generator=torch.Generator().manual_seed(1)) % len(train)
    start = time.process_time()
    for step in range(steps):
        batch = batch_of([train[int(i)] for i in order[step * BATCH : (step + 1) * BATCH]])
        model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
    seconds = (time.process_time() - start) / steps
    with torch.no_grad():
        losses = [float(model(**batch_of(dev[i : i + BATCH])).loss) for i in range(0, len(dev), BATCH)]
    return {"dev_loss": sum(losses) / len(losses), "seconds": seconds, "weights": sum(p.numel() for p in weights)}


def main() -> None:
    """Trains all of them and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    train, dev = rows_of(asked.train, tokenizer, 400), rows_of(asked.dev, tokenizer, 80)
    print(f"{len(train)} rows, {len(dev)} for dev, {asked.steps} steps of {BATCH}\n")
    print("| adapter | trained weights | best rate | dev loss | CPU s a step | ratio |\n|---|---|---|---|---|---|")
    unit = math.nan
    for name, (config, rates) in KINDS.items():
        tried = {rate: trained(asked.model, config(), rate, train, dev, asked.steps) for rate in rates}
        rate = min(tried, key=lambda rate: tried[rate]["dev_loss"])
        best, seconds = tried[rate], min(one["seconds"] for one in tried.values())
        unit = seconds if math.isnan(unit) else unit
        print(
            f"| {name} | {best['weights']:,.0f} | {rate:g} | {best['dev_loss']:.3f} | {seconds:.3f} | "
            f"{seconds / unit:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
