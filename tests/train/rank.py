"""One rank of a training group without Ray: python rank.py RANK WORLD GROUP ORDER RESULT."""

import json
import sys
from pathlib import Path

import torch

from clray.train.context import Context
from clray.train.loop import train_stage
from clray.train.order import StageOrder


def main(rank: int, world: int, group: str, order: str, result: str) -> None:
    """Trains the order in the JSON file `order`; rank 0 writes losses and files to `result`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=world)
    context = Context(rank=rank, world=world, device=torch.device("cpu"), report=lambda progress: None)
    made = train_stage(StageOrder(**json.loads(Path(order).read_text())), context)
    if rank == 0:
        Path(result).write_text(json.dumps({"losses": [p["loss"] for p in made.curve], "files": made.files}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # gloo's threads may abort a process that ends with the group open


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
