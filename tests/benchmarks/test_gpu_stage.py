"""The benchmark of the stage loop: it runs, its arithmetic is that of published roofs, and failures are lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import stage_figures as bench

SCRIPT = Path(bench.__file__).with_name("gpu_stage.py")


def run(*arguments):
    """Exit code, stdout and stderr of the script."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, timeout=500
    )


@pytest.mark.slow
def test_a_smoke_run_trains_and_survives_a_kill(tmp_path):
    """A configuration that cannot work (no flash-attn here) is a line of the result, not its end."""
    done = run("--smoke", "--attention", "sdpa,flash_attention_2", "--out", str(tmp_path / "result.json"))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    lines = {line["name"]: line for line in result["stages"]}
    for name in ("tiny-full-zero0-sdpa", "tiny-lora-zero2-sdpa"):
        line = lines[name]
        assert line["status"] == "ok" and line["mfu"] is None and line["peak_bytes"] is None
        slowest, fastest = line["slowest_and_fastest"]
        assert 0 < slowest <= line["tokens_per_second"] <= fastest
        assert len(line["step_seconds"]) == result["settings"]["steps"] - result["settings"]["warm_up"]
        assert line["first_loss"] == pytest.approx(6.24, abs=0.1), "random weights give about ln(512)"
    failed = lines["tiny-full-zero0-flash_attention_2"]
    assert failed["status"] == "failed" and "FlashAttention2" in failed["reason"]
    assert "tiny-full-zero0-flash_attention_2: failed" in done.stderr
    assert result["loss_spread"] == {"tiny-full": 0.0, "tiny-lora": 0.0}
    (check,) = result["kill_and_resume"]
    assert check["status"] == "ok" and check["weights_equal"] and check["relative_difference"] == 0.0
    assert 2 <= check["resumed_after_step"] < check["killed_after_step"]


@pytest.mark.slow
def test_without_a_gpu_and_without_smoke_it_says_so():
    done = run()
    assert done.returncode == 1
    assert "there is no CUDA device; --smoke runs a tiny model on the CPU" in done.stderr


def facts(shape, seen=2048.0):
    return {"shape": shape, "mixture": {"tokens": 100, "targets": 100, "seen_by_a_token": seen}}


QWEN = {"parameters": 494_032_768, "hidden": 896, "layers": 24, "vocabulary": 151_936, "tied": 1}
TINY_LLAMA = {"parameters": 1_100_048_384, "hidden": 2048, "layers": 22, "vocabulary": 32_000, "tied": 0}


@pytest.mark.parametrize(
    ("shape", "adapter", "roof"),
    [(QWEN, "full", 306e3), (QWEN, "lora", 441e3), (TINY_LLAMA, "full", 146e3), (TINY_LLAMA, "lora", 211e3)],
)
def test_mfu_is_one_at_the_roofs_of_an_h200(shape, adapter, roof):
    """989e12 / (6 * 494.0e6 + 6 * 24 * 896 * 2048) = 306k for Qwen2.5-0.5B, with 4 in place of 6 for LoRA 441k.

    TinyLlama has its input embedding apart: 1100.0e6 - 65.5e6 = 1034.5e6 weights, so 146k and 211k.
    """
    settings = bench.GPU
    steps = [
        {"step": n + 1, "tokens": (n + 1) * 32_768, "seconds": (n + 1) * 32_768 / roof, "loss": 1.0}
        for n in range(settings.steps)
    ]
    found = bench.summary(bench.Stage("m", adapter), steps, facts(shape), settings, 989e12)
    assert found["tokens_per_second"] == pytest.approx(roof)
    assert found["mfu"] == pytest.approx(1.0, abs=0.005)
    assert found["mfu"] == found["mfu_by_document"]
    assert len(found["step_seconds"]) == settings.steps - settings.warm_up


def test_warm_up_is_not_counted_and_one_slow_step_does_not_move_the_median():
    seconds = [100, 101, 102, 103, 104, 104.5, 105, 125, 125.5, 126, 126.5, 127, 127.5, 128]
    steps = [{"tokens": (n + 1) * 1000, "seconds": s, "loss": 2.0} for n, s in enumerate(seconds)]
    found = bench.summary(bench.Stage("m", "full"), steps, facts(QWEN, 1000.0), bench.GPU, 989e12)
    assert found["step_seconds"][:3] == [1.0, 0.5, 0.5] and found["step_seconds"][3] == 20
    assert found["tokens_per_second"] == 2000
    assert found["first_step_seconds"] == 100
    assert found["mfu_by_document"] < found["mfu"]


def test_losses_that_should_be_alike_are_compared_within_model_and_adapter():
    lines = [
        {"model": "m", "adapter": "full", "status": "ok", "last_loss": 2.0},
        {"model": "m", "adapter": "full", "status": "ok", "last_loss": 2.5},
        {"model": "m", "adapter": "full", "status": "failed"},
        {"model": "m", "adapter": "lora", "status": "ok", "last_loss": 3.0},
    ]
    assert bench.loss_spread(lines) == {"m-full": 0.25, "m-lora": 0.0}


def test_an_unknown_model_is_refused_before_anything_starts():
    done = run("--models", "7b")
    assert done.returncode == 2 and "'7b' is not known; there are tiny, 0.5b, 1b" in done.stderr


def outcome(loss, weights="a", steps=14):
    return {"last_loss": loss, "weights": {"weights/model.safetensors": weights}, "steps": steps}


@pytest.mark.parametrize(
    ("resumed_after", "resumed", "status"),
    [
        (5, outcome(2.0), "ok"),
        (5, outcome(2.001, "b"), "ok"),
        (5, outcome(2.1, "b"), "failed"),
        (0, outcome(2.0), "failed"),
        (5, outcome(2.0, steps=9), "failed"),
    ],
)
def test_a_resumed_stage_must_go_on_and_end_alike(resumed_after, resumed, status):
    assert bench.verdict(bench.GPU, resumed_after, 3.0, resumed, outcome(2.0))["status"] == status


def test_the_most_telling_configurations_come_first_and_none_twice():
    found = bench.stages(("0.5b", "1b"), ["sdpa", "varlen"])
    assert [stage.name for stage in found[:4]] == [
        f"{model}-{adapter}-zero0-varlen" for model in ("0.5b", "1b") for adapter in ("full", "lora")
    ]
    assert {stage.zero_stage for stage in found} == {0, 1, 2, 3}
    assert {stage.attention for stage in found} == {"sdpa", "varlen"}
    assert len(set(found)) == len(found) == 24
    assert not any(stage.compile and stage.zero_stage == 3 for stage in found)


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H20", None),
        ("cpu, 2 threads", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_whole_name(device, peak):
    assert bench.peak_of(device) == peak
