"""A stack of LoRA blocks for whoever has no clray: a model that selects, one task's weights, PEFT adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clray.errors import ModelError
from clray.lineage.generation import Generation
from clray.lineage.store import Store
from clray.models import stacks
from clray.models.blocks import attach, block_as_peft, merged
from clray.models.loading import load_model, load_tokenizer, require, tokenizer_digest, whole_weights
from clray.models.plain_code import PREFIX, model_type, selecting_code
from clray.models.stack_kinds import goes_on

CODE = "modeling_selecting"
CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---
# {stage}

{model} with {count} LoRA blocks, one for each task it was taught: {stages}.

For each prompt a small attention weighs the blocks by the prompt's embeddings alone; the answer is then generated with
these weights ([SAPT](https://arxiv.org/abs/2401.08295)). Plain Transformers loads it, with the code in `{code}.py`,
which is to be read and then trusted:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
prompts = tokenizer(["..."], return_tensors="pt", padding=True, padding_side="left")
answers = model.generate(**prompts, max_new_tokens=50)
```

Padding changes no selection. A call leaves its weights (rows, 1, blocks) in `model.lora_blocks.routing.weights`. To
score given answers, so that the prompt alone selects, call the model inside
`sys.modules[type(model).__module__].routed(model, prompt_mask)`. `clray.json` says where the model comes from.
"""


def selects(made: Generation) -> bool:
    """Whether the generation is a stack of blocks that an attention selects from, so that nothing can be merged."""
    return made.adapter is not None and made.adapter["kind"] == "sapt"


def block_stages(store: Store, made: Generation) -> list[str]:
    """The stages that the generation's blocks were trained in, oldest first."""
    names = [made.stage_name]
    while made.parent is not None:
        parent = require(store, made.parent)
        if made.adapter is None or not goes_on(parent.adapter, made.adapter):
            break
        names.append(parent.stage_name)
        made = parent
    return names[::-1]


def write_selecting(
    store: Store, made: Generation, folder: Path, precision: str, trust_remote_code: bool
) -> dict[str, Any]:
    """Writes a model that selects by itself, with its code and tokenizer; returns what the note says of it.

    The blocks are in the precision they were trained in, whatever that of the model below. ModelError where the
    model's own class is none of transformers'.
    """
    model: Any = load_model(store, made.key, precision, trust_remote_code=trust_remote_code)
    code, blocks = selecting_code(model), model.lora_blocks
    state, stack = model.state_dict(), stacks.read(store.weights(made.key))
    for path in blocks.layers:
        state |= {f"{path}.old_{letter}": stack.tensors[f"{path}.{letter}"] for letter in "AB"}
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
    (folder / f"{CODE}.py").write_text(code)
    stages, kind = block_stages(store, made), type(model).__name__
    classes = {"AutoConfig": type(model.config).__name__, "AutoModelForCausalLM": kind}
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "architectures": [f"{PREFIX}{kind}"],
        "auto_map": {auto: f"{CODE}.{PREFIX}{name}" for auto, name in classes.items()},
        "model_type": model_type(model.config),
        "lora_blocks": {
            "modules": list(blocks.layers),
            "query_rank": len(blocks.attention.down),
            "shapes": [{"rank": shape.rank, "alpha": shape.alpha} for shape in blocks.shapes],
            "stages": stages,
        },
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True))
    # With its class written down: the model's new type tells transformers nothing about the tokenizer.
    load_tokenizer(store, tokenizer_digest(store, made.key), trust_remote_code).save_pretrained(folder)
    names = ", ".join(stages)
    card = CARD.format(stage=made.stage_name, model=kind, count=len(stages), stages=names, code=CODE)
    (folder / "README.md").write_text(card)
    return {"form": "selecting", "precision": precision, "blocks": stages}


def recorded_weights(store: Store, made: Generation, task: str | int) -> tuple[str, list[float]]:
    """Stage and weights of the blocks of a task, which is a stage of the stack, or its number from 1.

    The weights are those that the attention gave the task's own prompts on average, when it was learnt; blocks that
    came later have none. ModelError where the generation does not select, or has no such task.
    """
    if not selects(made):
        raise ModelError(
            f"generation {made.short} has no blocks that prompts select from (adapter kind sapt), so there is no task "
            "to fix; export it without --task"
        )
    stages, wanted = block_stages(store, made), str(task)
    numbers = {str(number): number - 1 for number in range(1, len(stages) + 1)}
    index = stages.index(wanted) if wanted in stages else numbers.get(wanted)
    if index is None:
        listed = ", ".join(f"{number}: {stage}" for number, stage in enumerate(stages, 1))
        raise ModelError(f"generation {made.short} was not taught a task '{wanted}'; it has blocks of {listed}")
    memory = stacks.read(whole_weights(store, made)).memory
    found = [attention.tolist() for _, attention in memory if len(attention) == index + 1]
    if not found:
        raise ModelError(f"generation {made.short} holds no recorded attention of the task '{stages[index]}'")
    return stages[index], found[0] + [0.0] * (len(stages) - index - 1)


def model_of_task(store: Store, made: Generation, weights: list[float], trust_remote_code: bool) -> Any:
    """The model with its blocks merged at fixed weights, in fp32."""
    model = load_model(store, made.key, "fp32", trust_remote_code=trust_remote_code)
    merged(model, weights)
    return model


def write_blocks(store: Store, made: Generation, folder: Path, trust_remote_code: bool) -> list[Path]:
    """Writes each block alone as a PEFT adapter, to `blocks/NN-STAGE`; the folders, oldest block first."""
    stack = stacks.read(whole_weights(store, made))
    model = load_model(store, made.base, "fp32", trust_remote_code=trust_remote_code)
    attach(model, stack.targets, stack.shapes, None, stack.tensors, attention=stack.attended)
    folders = []
    for index, stage in enumerate(block_stages(store, made)):
        folders.append(folder / "blocks" / f"{index + 1:02d}-{stage}")
        block_as_peft(model, index, folders[-1])
    return folders
