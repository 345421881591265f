"""What a run holds while it runs: the connection to Ray, the training group, the scoring actors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

from clray.evaluation.actors import ScoringPool
from clray.planned import Plan
from clray.preparation import PreparedStage
from clray.ray_session import connect
from clray.train.group import TrainingGroup


class Session:
    """A context that starts what is asked of it, and sends all of it home at the end."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self.group = TrainingGroup(plan.stream.compute, plan.store)
        self.prepared: dict[str, PreparedStage] = {}

    def turn_to(self, plan: Plan) -> None:
        """Goes on with another plan. Training group and scoring actors stay, where it asks for such."""
        if _workers(plan) != _workers(self._plan):
            self._release_pool()
            self.group.release()
            self.group = TrainingGroup(plan.stream.compute, plan.store)
        self._plan = plan

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release_pool()
        if kind is None:
            self.group.release()
            return
        interrupted = issubclass(kind, KeyboardInterrupt)
        if interrupted:
            self._say("interrupted: saving the running stage")
        step = self.group.leave(save=interrupted)
        if step is not None:
            self._say(f"saved after step {step}")

    def connect(self) -> None:
        """Joins or starts Ray; ResourceError where it is too small for the stream."""
        connect(self._plan.stream)

    @cached_property
    def pool(self) -> ScoringPool:
        """The scoring actors, started on first use."""
        self.connect()
        return ScoringPool(self._plan.stream)

    def start_scoring(self) -> None:
        """Starts the scoring actors without waiting for them, where training can go on beside them."""
        if not self._crowded:
            _ = self.pool

    def make_room_for_scoring(self) -> None:
        """Sends the training group home where the GPUs do not suffice for it and the scoring actors."""
        if self._crowded:
            self.group.release()

    def make_room_for_training(self) -> None:
        """Ends the scoring actors where the GPUs do not suffice for them and the training group."""
        if self._crowded:
            self._release_pool()

    @property
    def _crowded(self) -> bool:
        """Whether training and scoring must take turns on the GPUs."""
        evaluation, compute = self._plan.stream.evaluation, self._plan.stream.compute
        if not (evaluation.gpus_per_worker and compute.gpus_per_worker):
            return False
        import ray

        wanted = compute.workers.max * compute.gpus_per_worker + evaluation.workers * evaluation.gpus_per_worker
        return float(ray.cluster_resources().get("GPU", 0)) < wanted

    def _release_pool(self) -> None:
        if "pool" in self.__dict__:
            self.pool.release()
            del self.__dict__["pool"]


def session_for(plan: Plan, say: Callable[[str], None], given: Session | None) -> AbstractContextManager[Session]:
    """The session that is given, turned to the plan and left open; else one that ends with the run."""
    if given is None:
        return Session(plan, say)
    given.turn_to(plan)
    return nullcontext(given)


def _workers(plan: Plan) -> tuple[object, ...]:
    """What the workers of a plan are started with."""
    model = plan.stream.model
    return plan.store.root, plan.stream.compute, plan.stream.evaluation, model.attention, model.trust_remote_code
