"""Continual pre-training as a user runs it: new layers, an infinite rate, carried moments, through the conductor."""

import pytest
import torch
from transformers import AutoModelForCausalLM
from watchers import Quiet

from clray import conductor
from clray.exporting import export, find
from clray.spec import loading
from texts import texts, write_lines

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def stream(tiny_model, tmp_path_factory, ray_cluster):
    """Three domains of plain text on a model of two layers."""
    folder = tmp_path_factory.mktemp("continuing")
    for seed, name in enumerate(("law", "news", "code")):
        write_lines(folder / f"{name}.jsonl", [{"text": t} for t in texts(30, most=40, seed=seed)])
    stages = "\n".join(f"  - {{name: {n}, kind: pretrain, data: {folder}/{n}.jsonl}}" for n in ("law", "news", "code"))
    return loading.loads(f"""
name: continuing
model: {{base: {tiny_model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 4}}
compute: {{zero_stage: 2}}
optimiser: {{learning_rate: 1e-3, state: carry}}
method:
  adapter: {{kind: expansion, layers: 2}}
  schedule: {{kind: infinite, warmup: 0.1, cooldown: 0.4, constant: 0.5}}
stages:
{stages}
tasks:
  - {{name: law, scorer: perplexity, limit: 5, data: {folder}/law.jsonl}}
  - {{name: says, scorer: generate, max_new_tokens: 4, limit: 3, format: {{prompt: "{{instruction}}"}},
      data: {{source: {folder}/law.jsonl, fields: {{output: text}}, instruction: red green}}}}
controls:
  release: {{stages.code.method: {{schedule: {{kind: infinite, constant: 0.5, anneal: 0.5}}}}}}
""")


def test_stages_go_on_with_layers_rate_and_moments_and_the_result_is_a_plain_model(stream, tmp_path):
    watch = Quiet()
    outcome = conductor.run(stream, watch)
    line, release = outcome.lines
    store = outcome.plan.store
    rates = [
        [p["learning_rate"] for p in store.read_json(f"generations/{g.key}/curve.json")] for g in line.generations[1:]
    ]
    assert max(rates[0]) == pytest.approx(1e-3) and set(rates[1]) == set(rates[2]) == {5e-4}
    counts = [g.training["optimiser_steps"] for g in line.generations[1:]]
    assert counts[-1] == sum(g.training["steps"] for g in line.generations[1:]) and counts == sorted(counts)
    assert line.generations[2].key == release.generations[2].key
    annealed = store.read_json(f"generations/{release.generations[3].key}/curve.json")
    assert annealed[0]["learning_rate"] == 5e-4 and annealed[-1]["learning_rate"] == pytest.approx(1e-4)
    out = export(stream.storage, find(stream, "newest"), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.config.num_hidden_layers == 4
    model.generate(torch.arange(5)[None], max_new_tokens=3, do_sample=False)
    assert conductor.run(stream, Quiet()).built == frozenset()
