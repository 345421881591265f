"""A folder of task files for lm-evaluation-harness over a small data set of its own."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = "the cat sat on a mat and saw one red bird fly over green trees near old stone house by water".split()
CHOICE = """
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {train: train.jsonl, test: test.jsonl}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "Question: {{question.strip()}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
INPUTS = """
include: quiz.yaml
task: inputs
doc_to_text: gold
doc_to_target: "{{question[:20]}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
LAST = """
include: quiz.yaml
task: last
output_type: loglikelihood
doc_to_choice: null
doc_to_target: "{{' ' + choices[gold]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
ROLLING = """
include: quiz.yaml
task: reading
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_choice: null
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
"""
WRITING = """
include: quiz.yaml
task: writing
output_type: generate_until
doc_to_choice: null
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n", "e "], max_gen_toks: 24, do_sample: false, temperature: 0.0}
filter_list:
  - {name: whole, filter: [{function: take_first}]}
  - {name: word, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
FILES = {"quiz": CHOICE, "inputs": INPUTS, "last": LAST, "reading": ROLLING, "writing": WRITING}


def write_folder(folder: Path, documents: int = 12) -> Path:
    """The folder with its task files and the data: questions of several lengths, some longer than the model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(text)
    draw = random.Random(7)
    for split in ("train", "test"):
        rows = [_row(draw, long=number == 3) for number in range(documents)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(draw: random.Random, long: bool) -> dict:
    def words(low: int, high: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(low, high)))

    return {
        "question": words(150, 150) if long else words(3, 12),
        "choices": [words(1, 4) for _ in range(4)],
        "gold": draw.randrange(4),
        "text": words(200, 260) if long else words(8, 30),
    }
