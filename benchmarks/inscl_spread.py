"""How far InsCL's quotas are from equal ones, by encoder: whether the choice of an encoder could matter for a stream.

    python benchmarks/inscl_spread.py jobs/inscl_superni.yaml ENCODER_FOLDER ... [--rows 10]

For each stage from the third on: embeddings of the instructions (means of the last hidden states, mean-centred over the
stages so far), exact Wasserstein distances to the earlier stages (cosine), and the quotas that follow for a budget of
`--rows` for each. Trains nothing. Run it in the folder that the stream's relative paths start from.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import islice
from statistics import fmean, median

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from clray.replay.wasserstein import distance
from clray.spec import loading
from clray.spec.stream import Stage


def instructions(stage: Stage) -> Counter[str]:
    """Instructions of the stage's JSONL files, and how many rows have each."""
    found: Counter[str] = Counter()
    for source in stage.data:
        with open(source.source, encoding="utf-8") as lines:
            found.update(json.loads(line)["instruction"].strip() for line in islice(lines, source.limit))
    return found


def embeddings(folder: str, texts: list[str]) -> np.ndarray:
    """(n, d) means of the last hidden states."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=512, return_token_type_ids=False)
        with torch.no_grad():
            rows.append(model(**ids).last_hidden_state[0].double().mean(0).numpy())
    return np.stack(rows)


def main() -> None:
    """Prints a row for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("encoders", nargs="+", help="folders of Hugging Face models")
    parser.add_argument("--rows", type=int, default=10)
    asked = parser.parse_args()
    sets = [instructions(stage) for stage in loading.load(asked.stream).sequence]
    print("| encoder | mean distance of a quota from equal, rows | max / min of the quotas, median | largest |")
    print("|---|---|---|---|")
    for folder in asked.encoders:
        vectors = [embeddings(folder, sorted(found)) for found in sets]
        weights = [np.array([found[text] for text in sorted(found)], dtype=np.float64) for found in sets]
        away, spread = [], []
        for last in range(2, len(sets)):
            centre = np.concatenate(vectors[: last + 1]).mean(axis=0)
            centred = [part - centre for part in vectors[: last + 1]]
            found = [
                distance(centred[last], weights[last], centred[i], weights[i], "cosine", "exact").value
                for i in range(last)
            ]
            quotas = asked.rows * last * np.array(found) / np.sum(found)
            away.append(float(np.abs(quotas - asked.rows).mean()))
            spread.append(float(quotas.max() / quotas.min()))
        name = folder.rstrip("/").rpartition("/")[2]
        print(f"| {name} | {fmean(away):.2f} of {asked.rows} | {median(spread):.2f} | {max(spread):.2f} |", flush=True)


if __name__ == "__main__":
    main()
