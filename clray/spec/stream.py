"""A stream: an ordered list of stages over one base model, with the tasks it is measured on."""

from __future__ import annotations

import random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from clray.spec.align import Align
from clray.spec.evolve import Evolve, Round
from clray.spec.format import Format
from clray.spec.gate import Gate
from clray.spec.length import Length
from clray.spec.merge import Merge
from clray.spec.method import Batch, Method, Optimiser
from clray.spec.similarity import Similarity
from clray.spec.source import Sources
from clray.spec.strict import NAME, Strict
from clray.spec.task import Task


class BuiltinLlama(Strict):
    """Shape of the small Llama that `base: builtin:llama` makes on the spot, with a byte-level BPE tokenizer."""

    vocab_size: int = Field(2048, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16, multiple_of=8)
    intermediate_size: int = Field(352, ge=16)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    max_positions: int = Field(512, ge=32)


class Model(Strict):
    """The base model: a Hugging Face id or folder, or `builtin:llama`."""

    base: str = Field("builtin:llama", description="Hugging Face id, folder, or builtin:llama")
    revision: str | None = Field(None, description="revision of a Hugging Face id")
    trust_remote_code: bool = Field(False, description="runs code that comes with the model; off unless you say so")
    attention: Literal["auto", "eager", "sdpa", "varlen", "flash_attention_2"] = Field(
        "auto",
        description="varlen: FlashAttention inside PyTorch (CUDA, bf16, PyTorch 2.11); flash_attention_2: the package",
    )
    builtin: BuiltinLlama = BuiltinLlama()


class Workers(Strict):
    """How many training workers a stage has; where min and max differ, that may change while it runs."""

    min: int = Field(ge=1, description="fewest workers that a stage goes on with")
    max: int = Field(ge=1, description="most workers, asked for whenever the cluster has them")

    @model_validator(mode="after")
    def _in_order(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _workers(value: Any) -> Any:
    return {"min": value, "max": value} if isinstance(value, int) else value


WORKERS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {
            "type": "object",
            "properties": {"min": {"type": "integer", "minimum": 1}, "max": {"type": "integer", "minimum": 1}},
            "required": ["min", "max"],
            "additionalProperties": False,
        },
    ]
}


class Checkpoint(Strict):
    """When a running stage is saved. A lost or stopped run goes on from the newest checkpoint."""

    every_steps: int | None = Field(None, ge=1, description="optimiser steps between checkpoints")
    every_minutes: float | None = Field(10.0, gt=0, description="minutes between checkpoints; null: by steps alone")
    keep: int = Field(2, ge=1, description="checkpoints kept of a running stage; none once it is finished")


class Compute(Strict):
    """What runs the stages. Nothing here but `precision` changes the result."""

    workers: Annotated[Workers, BeforeValidator(_workers), WithJsonSchema(WORKERS_SCHEMA)] = Field(
        Workers(min=1, max=1),
        description="training workers (data-parallel ranks): a number, or {min: 2, max: 8} for an elastic group",
    )
    gpus_per_worker: int = Field(0, ge=0, le=1)
    cpus_per_worker: int = Field(1, ge=1, description="CPUs that Ray reserves for each worker")
    threads: int | None = Field(None, ge=1, description="CPU threads of each worker; default: its share of the node")
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload: Literal["none", "cpu"] = Field("none", description="where optimiser state (and ZeRO-3 weights) lie")
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int = Field(8, ge=1, description="packed sequences in one forward pass of one worker")
    gradient_checkpointing: bool = False
    compile: bool = Field(
        False, description="torch.compile of the layers and the loss: slow first steps, faster ones then; ZeRO 0 to 2"
    )
    checkpoint: Checkpoint = Checkpoint()
    max_failures: int = Field(2, ge=0, description="times a lost worker group is started again")
    grace_seconds: float = Field(
        60.0, ge=0, description="time to save a checkpoint after SIGTERM or Ctrl-C, before leaving"
    )

    @model_validator(mode="after")
    def _compiles(self) -> Compute:
        if self.compile and self.zero_stage == 3:
            raise ValueError("compile goes with zero_stage 0 to 2: ZeRO 3 gathers and frees weights around each layer")
        return self


class Evaluation(Strict):
    """What measures the generations: scoring actors of their own, never the training group."""

    workers: int = Field(1, ge=1, description="scoring actors")
    gpus_per_worker: float = Field(0, ge=0, le=1)
    threads: int | None = Field(
        None,
        ge=1,
        description="CPU threads of each scoring actor; default: its share of the node, 1 on a joined cluster",
    )
    batch_tokens: int = Field(8192, ge=64, description="padded tokens in one forward pass")
    shard_rows: int = Field(256, ge=1, description="examples that one actor call scores")
    every: int = Field(
        1, ge=1, description="all tasks are measured on every so many generations, the base model and the last one"
    )
    window: int = Field(1, ge=1, description="on generations between, only the tasks taught by the last so many stages")


class Stage(Strict):
    """One unit of training. What it leaves out comes from the stream."""

    name: str = Field(pattern=NAME)
    kind: Literal["pretrain", "instruct", "align", "evolve"]
    data: Sources = Field((), description="what is trained on; an evolve stage finds it itself")
    evolve: Evolve | None = Field(None, description="questions and knowledge of an evolve stage")
    align: Align = Field(Align(), description="the loss of an align stage")
    length: Length = Length(epochs=1)
    method: Method = Method()
    optimiser: Optimiser = Optimiser()
    batch: Batch = Batch()
    sequence_length: int = Field(256, ge=8)
    format: Format = Format()
    gate: Gate | None = Field(None, description="instead of the stream's gate; null: none for this stage")
    merge: Merge | None = Field(None, description="what its weights are merged with, once they are trained")
    teaches: tuple[str, ...] | None = Field(
        None, description="tasks that this stage teaches; default: the task of its own name, if there is one"
    )

    @model_validator(mode="after")
    def _has_data(self) -> Stage:
        if self.kind == "evolve" and (self.evolve is None or self.data):
            raise ValueError("an evolve stage takes 'evolve' (questions and knowledge), and no 'data'")
        if self.kind != "evolve" and (self.evolve is not None or not self.data):
            raise ValueError(f"a stage of kind {self.kind} takes 'data', and no 'evolve'")
        if self.kind != "align" and "align" in self.model_fields_set:
            raise ValueError(f"'align' is for stages of kind align; this one is of kind {self.kind}")
        return self


def rounds(stage: Stage) -> tuple[Stage, ...]:
    """The stage's rounds, named NAME.1, NAME.2 and so on where there are several; any other stage is one by itself.

    Under `cpt_then_cit` a round is two stages, NAME.cpt and NAME.cit, which learn from one exam.
    """
    if stage.evolve is None:
        return (stage,)
    asked, teaches = stage.evolve, stage.teaches or (stage.name,)
    halves = {"cpt": "cpt_only", "cit": "cit_only"} if asked.control == "cpt_then_cit" else {"": asked.control}
    several = [f".{number}" if asked.rounds > 1 else "" for number in range(1, asked.rounds + 1)]
    parts = []
    for number, ordinal in enumerate(several, 1):
        for half, control in halves.items():
            settings = {"control": control, "of": stage.name, "number": number, "half": half}
            part = Round(**{**dict(asked), **settings})
            name = f"{stage.name}{ordinal}{'.' * bool(half)}{half}"
            parts.append(stage.model_copy(update={"name": name, "evolve": part, "teaches": teaches}))
    return tuple(parts)


class Stream(Strict):
    """An ordered list of stages over one base model, with the tasks it is measured on."""

    name: str = Field(pattern=NAME)
    description: str = ""
    model: Model = Model()
    seed: int = Field(0, ge=0, lt=2**31)
    storage: str = Field("clray-store", description="folder, s3:// or gs:// URI for data, weights and scores")
    tracking: str | None = Field(None, description="MLflow tracking URI; default: SQLite inside the storage folder")
    compute: Compute = Compute()
    evaluation: Evaluation = Evaluation()
    method: Method = Method()
    optimiser: Optimiser = Optimiser()
    batch: Batch = Batch()
    sequence_length: int = Field(256, ge=8, description="tokens of one packed sequence")
    format: Format = Format()
    gate: Gate | None = Field(None, description="what a generation must keep to become the parent of the next stage")
    align: Align = Field(Align(), description="the loss of align stages")
    merge: Merge | None = Field(None, description="of every stage that does not say otherwise")
    stages: tuple[Stage, ...] = Field(min_length=1)
    order: Literal["given", "reverse", "random", "similar"] | tuple[str, ...] = Field(
        "given",
        description="order of the stages: as given, reversed, shuffled by the seed, a chain in which each is the most "
        "similar of those left to the one before, or a list of their names",
    )
    similarity: Similarity | None = Field(
        None, description="how the likeness of stages is measured; measured for `order: similar`, or where this stands"
    )
    experts: bool = Field(
        False, description="also trains each stage alone from the base model: the single-task experts of some metrics"
    )
    tasks: tuple[Task, ...] = ()
    controls: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named variants run beside the stream: dotted field -> value"
    )
    grid: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="`clray benchmark` runs the stream for each combination: dotted field -> values, say model.base, "
        "order and seed; `clray run` leaves it alone",
    )

    @model_validator(mode="after")
    def _names(self) -> Stream:
        for what, names in (("stage", [s.name for s in self.stages]), ("task", [t.name for t in self.tasks])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {what}s are named '{twice[0]}'; give each its own name")
        if not isinstance(self.order, str) and sorted(self.order) != sorted(stage.name for stage in self.stages):
            raise ValueError(f"'order' must name each stage once: {', '.join(stage.name for stage in self.stages)}")
        tasks = {task.name for task in self.tasks}
        for stage in self.stages:
            unknown = sorted(set(stage.teaches or ()) - tasks)
            if unknown:
                raise ValueError(
                    f"stage '{stage.name}' teaches '{unknown[0]}', which is no task of the stream; "
                    f"tasks are {', '.join(sorted(tasks))}"
                )
        return self

    @model_validator(mode="after")
    def _gates(self) -> Stream:
        groups, metrics = self._groups, {task.score for task in self.tasks}
        for gate in (self.gate, *(stage.gate for stage in self.stages)):
            for group in gate.max_delta if gate else ():
                if group not in groups:
                    raise ValueError(
                        f"gate max_delta_{group}: no task is of group '{group}'; groups are "
                        f"{', '.join(sorted(groups)) or 'none'}. Give a task group: {group}"
                    )
            unknown = sorted((gate.metrics if gate else set()) - metrics)
            if unknown:
                raise ValueError(
                    f"gate: no task is measured in {unknown[0]}; the metrics are {', '.join(sorted(metrics)) or 'none'}"
                )
        return self

    @property
    def _groups(self) -> set[str]:
        """The groups of all tasks."""
        taught = {task for stage in self.stages for task in stage.teaches or (stage.name,)}
        return {task.group or "general" for task in self.tasks if task.group or task.name not in taught}

    def gate_of(self, stage: Stage) -> Gate | None:
        """The gate that the stage's generation must pass: its own, else the stream's; None without a limit."""
        gate = stage.gate if "gate" in stage.model_fields_set else self.gate
        return gate if gate and gate.limits else None

    @property
    def sequence(self) -> tuple[Stage, ...]:
        """The stages in the order in which they are trained, each round of an evolve stage by itself."""
        return tuple(part for stage in self._ordered for part in rounds(stage))

    @property
    def _ordered(self) -> tuple[Stage, ...]:
        if self.order == "given":
            return self.stages
        if self.order == "reverse":
            return self.stages[::-1]
        if self.order == "random":
            return tuple(random.Random(self.seed).sample(self.stages, len(self.stages)))
        by_name = {stage.name: stage for stage in self.stages}
        return tuple(by_name[name] for name in self.order)
