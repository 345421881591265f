"""What T LoRA blocks cost, as ratios to a single PEFT LoRA and beside PEFT with T active adapters, in one run.

    python benchmarks/lora_blocks.py [--blocks 1 5 15 50] [--repeats 5] [--threads 1] [--limit 60] [--device cuda]

A random Llama, blocks of rank 8 on q_proj and v_proj. On the CPU about 25 M weights in fp32 and two rows of 256 tokens;
on a GPU 1.1 B weights (TinyLlama's shape) in bf16 and eight rows of 512:

- train: forward + backward of the rows, T - 1 blocks frozen and the last trained;
- generate: prompts of that length, then 32 tokens with a KV cache, all blocks frozen.

`sum` adds the blocks up, `attention` weighs them by the prompt (SAPT). All four take turns in each repeat, and medians
are compared. Times are CPU seconds of the process, which neighbours on a shared machine change less than the clock on
the wall, and on a GPU the wall's, once the device is done; a measurement whose first call takes more than `--limit`
seconds is left out, and says so.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from clray.models.blocks import BlockShape, attach

NEW_TOKENS = 32
TARGETS = ("q_proj", "v_proj")
SHAPE = BlockShape(rank=8, alpha=16.0)
NAMES = {
    "single": "PEFT, one LoRA",
    "sum": "clray, sum",
    "attention": "clray, attention",
    "peft": "PEFT, T active adapters",
}


@dataclass(frozen=True)
class Work:
    """Where the work is done, and how large it is."""

    device: str
    dtype: torch.dtype
    rows: int
    length: int
    llama: dict[str, int]

    def base(self) -> LlamaForCausalLM:
        """A Llama with grouped-query attention, always with the same random weights."""
        torch.manual_seed(0)
        config = LlamaConfig(
            **self.llama,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            dtype=self.dtype,
        )
        with torch.device(self.device):
            return LlamaForCausalLM(config).to(self.dtype)

    def ids(self) -> torch.Tensor:
        """The rows."""
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randint(1, self.llama["vocab_size"], (self.rows, self.length), generator=generator)
        return drawn.to(self.device)

    def clock(self) -> float:
        """CPU seconds of the process; on a GPU seconds of the wall, once it is done."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def _llama(*shape: int) -> dict[str, int]:
    names = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads"
    return dict(zip(names.split(), shape, strict=True))


WORK = {
    "cpu": Work("cpu", torch.float32, 2, 256, _llama(8192, 512, 1376, 7, 8, 4)),
    "cuda": Work("cuda", torch.bfloat16, 8, 512, _llama(32000, 2048, 5632, 22, 32, 4)),
}


def stacked(work: Work, blocks: int, attention: bool, trained: bool) -> Any:
    """The model with T blocks of random weights."""
    model, old = work.base(), [SHAPE] * (blocks - trained)
    width, tensors = work.llama["hidden_size"], {}
    for path, module in model.named_modules():
        if path.endswith(TARGETS) and old:
            tensors[f"{path}.A"] = torch.randn(8 * len(old), module.in_features) * 0.02
            tensors[f"{path}.B"] = torch.randn(module.out_features, 8 * len(old)) * 0.02
    if attention and old:
        tensors["attention.keys"] = torch.randn(len(old), width)
        tensors |= {"attention.down": torch.randn(100, width), "attention.up": torch.randn(width, 100)}
        tensors |= {"attention.norm_weight": torch.ones(width), "attention.norm_bias": torch.zeros(width)}
    attach(model, TARGETS, old, SHAPE if trained else None, tensors, attention=attention)
    return model.to(work.device)


def adapters(work: Work, blocks: int, trained: bool) -> Any:
    """PEFT's model with T active adapters, of which at most the last is trained."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(TARGETS))
    model = get_peft_model(work.base(), config, adapter_name="a0")
    for number in range(1, blocks):
        model.add_adapter(f"a{number}", config)
    model.base_model.set_adapter([f"a{number}" for number in range(blocks)])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained and f".a{blocks - 1}." in name)
    return model


def train(model: Any, ids: torch.Tensor) -> None:
    """Forward and backward of the language loss."""
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def generate(model: Any, ids: torch.Tensor) -> None:
    """Greedy tokens behind the prompts, with a KV cache."""
    model.eval()
    settings = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, pad_token_id=0)
    with torch.inference_mode():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)


def measured(work: Work, calls: dict[str, Callable[[], None]], repeats: int, limit: float) -> dict[str, float | None]:
    """Median seconds of each call, taking turns; None for one whose first call is beyond the limit."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    left = dict(calls)
    for turn in range(repeats + 1):
        for name, call in list(left.items()):
            started = work.clock()
            call()
            seconds = work.clock() - started
            if turn == 0 and seconds > limit:
                del left[name]
            elif turn:
                times[name].append(seconds)
    return {name: statistics.median(found) if found else None for name, found in times.items()}


def compared(work: Work, kind: str, blocks: int, repeats: int, limit: float) -> dict[str, float | None]:
    """Median seconds of the four at T blocks."""
    trained, act = kind == "train", train if kind == "train" else generate
    models = {
        "single": adapters(work, 1, trained),
        "sum": stacked(work, blocks, False, trained),
        "attention": stacked(work, blocks, True, trained),
        "peft": adapters(work, blocks, trained),
    }
    found = measured(work, {name: partial(act, model, work.ids()) for name, model in models.items()}, repeats, limit)
    del models
    gc.collect()
    return found


def cell(seconds: float | None, single: float | None, limit: float) -> str:
    """A ratio, or why there is none."""
    return f"{seconds / single:.2f}x" if seconds and single else f"left out: over {limit:.0f} s"


def main() -> None:
    """Runs the comparison and prints it as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 5, 15, 50])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one call")
    parser.add_argument("--device", choices=sorted(WORK), default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    work = WORK[given.device]
    size = sum(p.numel() for p in work.base().parameters()) / 1e6
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{given.threads} thread(s)"
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores ({platform.machine()}, shared, load {load:.1f} at the start), {where}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}. Llama of {size:.1f} M weights, {work.dtype}, {work.rows} rows of "
        f"{work.length} tokens, rank {SHAPE.rank} on {' and '.join(TARGETS)}; medians of {given.repeats}, "
        f"{'CPU seconds' if given.device == 'cpu' else 'seconds'}.\n"
    )
    others = [name for name in NAMES if name != "single"]
    print("| what | T | " + " | ".join([NAMES["single"], *(NAMES[name] for name in others)]) + " |")
    print("|---|---|" + "---|" * len(NAMES))
    for kind, title in (("train", "forward + backward"), ("generate", f"prompt + {NEW_TOKENS} tokens, KV cache")):
        for blocks in given.blocks:
            found = compared(work, kind, blocks, given.repeats, given.limit)
            single = found["single"]
            ratios = [cell(found[name], single, given.limit) for name in others]
            first = f"{single:.3g} s" if single else cell(None, None, given.limit)
            print(f"| {title} | {blocks} | {first} | " + " | ".join(ratios) + " |", flush=True)
    print(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
