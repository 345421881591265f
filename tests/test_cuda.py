"""The whole way on one GPU: Ray, DeepSpeed over NCCL, scoring, the record with its energy, and making it again."""

import json
import os
import subprocess
import sys

import pytest
import torch

from texts import texts, write_lines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

STREAM = """
name: on-cuda
model: {{base: {model}}}
storage: {folder}/store
sequence_length: 64
batch: {{size: 8}}
compute: {{gpus_per_worker: 1, micro_batch: 4}}
evaluation: {{gpus_per_worker: 1}}
optimiser: {{learning_rate: 3e-3}}
stages:
  - {{name: text, kind: pretrain, data: {folder}/text.jsonl}}
  - {{name: first, kind: instruct, data: {folder}/first.jsonl, method: {{adapter: {adapter}}}}}
  - {{name: last, kind: instruct, data: {folder}/last.jsonl, method: {{adapter: {adapter}}}}}
tasks:
  - {{name: text, scorer: perplexity, data: {folder}/text.jsonl, limit: 10}}
  - {{name: first, scorer: generate, max_new_tokens: 4, data: {folder}/first.jsonl, limit: 10}}
  - {{name: last, scorer: choice, data: {folder}/last.jsonl, limit: 10}}
"""
ADAPTERS = {
    "lora": "{kind: lora, rank: 4}",
    "sapt": "{kind: sapt, rank: 4, targets: all-linear, reflection: {prompts: 20}}",
    "full": "{kind: full}",
}


@pytest.fixture(params=list(ADAPTERS))
def stream(request, tiny_model, tmp_path):
    """The file of a stream of a full stage and two with an adapter."""
    found = texts(60, most=20)
    rows = {
        "text": [{"text": t} for t in found],
        "first": [{"instruction": "first", "input": t, "output": t.split()[0]} for t in found],
        "last": [{"instruction": "last", "input": t, "output": t.split()[-1]} for t in found],
    }
    for name, records in rows.items():
        write_lines(tmp_path / f"{name}.jsonl", records)
    path = tmp_path / "stream.yaml"
    path.write_text(STREAM.format(model=tiny_model, folder=tmp_path, adapter=ADAPTERS[request.param]))
    return path


def clray(*words):
    """What the command answers as JSON, in a process and a Ray of its own."""
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "DS_ACCELERATOR")}
    done = subprocess.run([sys.executable, "-m", "clray", *words, "--json"], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_a_stream_on_a_gpu_is_that_of_the_cpu_and_is_made_again(stream, tmp_path):
    """The perplexities of a run on the CPU to 1 %, the other scores to one of ten answers; energy and device memory
    stand in the record; made again within a thousandth of each loss."""
    (gpu,) = clray("run", str(stream))["lines"]
    on_cpu = ["compute.gpus_per_worker=0", "evaluation.gpus_per_worker=0", f"storage={tmp_path}/cpu"]
    (cpu,) = clray("run", str(stream), *on_cpu)["lines"]
    for task, *pairs in zip(gpu["matrix"]["tasks"], *map(zip, gpu["matrix"]["R"], cpu["matrix"]["R"]), strict=True):
        close = {"rel": 0.01} if task == "text" else {"abs": 0.11}
        assert all(ours == pytest.approx(theirs, **close) for ours, theirs in pairs if ours is not None), (task, pairs)
    for made in gpu["generations"]:
        if made["training"]:
            assert made["training"]["peak_device_bytes"] > 1e6 and made["training"]["gpu_joules"] > 0
    again = clray("reproduce", "newest", "--storage", f"{tmp_path}/store", "--scratch", f"{tmp_path}/scratch")
    assert again["loss_apart"] < 1e-3
