"""Writes the stream of the whole continual pre-training benchmark: 159 domains of 6.6 billion tokens, as M2D2 has them.

    python benchmarks/m2d2_plan.py DATA/corpora FOLDER [--domains 159] [--tokens 6.6e9] [--dense] [--experts]
    cd FOLDER && CLRAY_AUTOSCALING=1 clray plan stream.yaml            the bill: tokens, FLOPs, hours, storage, scores
    cd FOLDER && clray run stream.yaml "compute={}" "model={base: DATA/models/stories260K}" ...       a small one

The number of domains and their total are the paper's (Yildiz et al., arXiv 2402.17400); how the total is spread is
invented (log-normal, a fixed seed), and each domain's text is a few resampled paragraphs, seen as often as its size
wants. The plan counts what is trained on, so the bill is that of the real text. The model is a Llama of GPT-2 small's
shape on eight GPUs.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from memory import read_texts

PARAGRAPH, PARAGRAPHS = 400, 24
HEAD = """\
name: m2d2
description: {domains} domains of {tokens:.2g} tokens, one after the other.
storage: clray-store
experts: {experts}
model: {{base: "builtin:llama", builtin: {{vocab_size: 16384, hidden_size: 768, intermediate_size: 2048, layers: 12,
  heads: 12, max_positions: 1024}}}}
sequence_length: 1024
batch: {{size: 16}}
optimiser: {{learning_rate: 3e-4}}
order: random
compute: {{workers: 8, gpus_per_worker: 1, precision: bf16, micro_batch: 2}}
evaluation: {{workers: 8, gpus_per_worker: 1, every: {every}, window: {window}}}
"""


def main() -> None:
    """Writes the domains and the stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, help="folder of folders with train.jsonl, to take paragraphs from")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--domains", type=int, default=159)
    parser.add_argument("--tokens", type=float, default=6.6e9)
    parser.add_argument("--dense", action="store_true", help="measures every domain on every generation")
    parser.add_argument("--experts", action="store_true", help="also each domain alone")
    asked = parser.parse_args()
    write(asked.corpora, asked.folder, asked.domains, asked.tokens, asked.dense, asked.experts)


def write(
    corpora: Path,
    folder: Path,
    domains: int,
    tokens: float,
    dense: bool = False,
    experts: bool = False,
    test_paragraphs: int = 4,
) -> Path:
    """The path of the stream file in the folder, beside the domains' text."""
    rng, texts = random.Random(domains), read_texts(corpora)
    weights = [rng.lognormvariate(0, 1) for _ in range(domains)]
    folder.mkdir(parents=True, exist_ok=True)
    stages, tasks = ["stages:"], ["tasks:"]
    for number, weight in enumerate(weights, 1):
        name, size = f"domain-{number:03d}", round(tokens * weight / sum(weights))
        for split, count in (("train", PARAGRAPHS), ("test", test_paragraphs)):
            rows = [json.dumps({"text": f"{name} {_paragraph(rng, texts)}"}, ensure_ascii=False) for _ in range(count)]
            (folder / f"{name}.{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        stages.append(f"  - {{name: {name}, kind: pretrain, data: {name}.train.jsonl, length: {{tokens: {size}}}}}")
        tasks.append(f"  - {{name: {name}, scorer: perplexity, data: {name}.test.jsonl}}")
    every, window = (1, 1) if dense else (10, 5)
    head = HEAD.format(domains=domains, tokens=tokens, every=every, window=window, experts=str(experts).lower())
    stream = folder / "stream.yaml"
    stream.write_text("\n".join([head, *stages, "", *tasks, ""]), encoding="utf-8")
    return stream


def _paragraph(rng: random.Random, texts: list[str]) -> str:
    """A piece of any document."""
    text = rng.choice(texts)
    start = rng.randrange(max(1, len(text) - PARAGRAPH))
    return text[start : start + PARAGRAPH]


if __name__ == "__main__":
    main()
