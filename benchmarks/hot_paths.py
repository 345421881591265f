"""The hot paths beside what is usually done, in one run, as ratios.

    python benchmarks/hot_paths.py MODEL_FOLDER INSTRUCT.jsonl [--rows 64] [--threads 2]

- projection: forward + backward with the vocabulary projection at the targets only, against projecting everywhere
  (what `model(input_ids, labels=...)` does);
- packing: best-fit-decreasing rows with a block mask, against one example a row padded to the longest;
- choice: all options behind one prompt, against one row an option.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from clray.data.batches import Sequence
from clray.data.formatting import encode_answer, encode_example, encode_prompt, fit_prompt
from clray.data.packing import best_fit_decreasing
from clray.evaluation.choice import ChoiceExample, score_choices
from clray.models import masks
from clray.spec.format import Format
from clray.train.objective import TargetLoss, collate

FORM = Format(prompt="{instruction}\n{input}\nAnswer:", overlong="truncate")
LENGTH = 256


def best_of(function: Callable[[], object], repeats: int = 3) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Runs the three comparisons and prints them as a table and as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = AutoModelForCausalLM.from_pretrained(given.model)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    records = [json.loads(line) for line in given.data.read_text().splitlines()[: given.rows]]
    results = {
        "projection": projection(model, tokenizer, records),
        "packing": packing(model, tokenizer, records),
        "choice": choice(model, tokenizer, records[:16]),
    }
    for name, row in results.items():
        print(
            f"{name:12} clray {row['clray']:8.3f} s   usual {row['usual']:8.3f} s   {row['usual'] / row['clray']:.2f}x"
        )
    print(json.dumps(results))


def encoded(tokenizer, records) -> list[Sequence]:
    """One sequence a record."""
    found = (encode_example(tokenizer, record, FORM, LENGTH, "row") for record in records)
    return [
        Sequence(np.asarray(e.ids), np.asarray(e.targets), np.asarray([len(e.ids)]), np.zeros(1)) for e in found if e
    ]


def projection(model, tokenizer, records) -> dict[str, float]:
    """Seconds of forward + backward over the records in batches of 8."""
    rows = encoded(tokenizer, records)
    batches = [collate(rows, np.arange(i, min(i + 8, len(rows))), 8) for i in range(0, len(rows), 8)]
    loss = TargetLoss(model)

    def everywhere() -> None:
        for batch in batches:
            labels = torch.full_like(batch.ids, -100)
            labels.view(-1)[batch.index + 1] = batch.labels
            mask = masks.block_causal(batch.segments, torch.float32)
            model(batch.ids, attention_mask=mask, position_ids=batch.positions, labels=labels).loss.backward()

    return {"clray": best_of(lambda: [loss(batch).backward() for batch in batches]), "usual": best_of(everywhere)}


def packing(model, tokenizer, records) -> dict[str, float]:
    """Seconds of forward + backward over all records, packed and padded, 4 rows at once."""
    rows = encoded(tokenizer, records)
    packed = [
        Sequence(
            *(np.concatenate([getattr(rows[i], name) for i in group]) for name in ("ids", "targets", "segments")),
            np.zeros(1),
        )
        for group in best_fit_decreasing([len(row.ids) for row in rows], LENGTH)
    ]
    loss = TargetLoss(model)

    def over(sequences: list[Sequence]) -> None:
        for start in range(0, len(sequences), 4):
            loss(collate(sequences, np.arange(start, min(start + 4, len(sequences))), 4)).backward()

    return {"clray": best_of(lambda: over(packed)), "usual": best_of(lambda: over(rows))}


def choice(model, tokenizer, records) -> dict[str, float]:
    """Seconds of scoring every option of the records."""
    options = sorted({str(record["output"]) for record in records})
    answers = tuple(tuple(encode_answer(tokenizer, option, FORM)) for option in options)
    room = max(map(len, answers)) + sum(map(len, answers))
    prompts = [fit_prompt(encode_prompt(tokenizer, r, FORM), room, LENGTH, FORM, "row") for r in records]
    together = [ChoiceExample(tuple(prompt), answers, 0) for prompt in prompts]
    single = [ChoiceExample(tuple(prompt), (answer,), 0) for prompt in prompts for answer in answers]
    pad = tokenizer.eos_token_id
    return {
        "clray": best_of(lambda: score_choices(model, together, batch_tokens=4096, pad_id=pad)),
        "usual": best_of(lambda: score_choices(model, single, batch_tokens=4096, pad_id=pad)),
    }


if __name__ == "__main__":
    main()
