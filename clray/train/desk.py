"""Where the driver leaves orders for the training group, and the group its progress and results."""

from __future__ import annotations

import asyncio

from clray.errors import UserError
from clray.train.order import Progress, StageOrder, StageResult


class Desk:
    """An actor between driver and training group. Orders are numbered from 1 and finished one by one.

    A worker group that was lost and started again asks for the first unfinished order and goes on there.
    """

    def __init__(self) -> None:
        self.orders: list[StageOrder | None] = []
        self.results: dict[int, StageResult | UserError] = {}
        self.latest: Progress | None = None
        self.notes: list[str] = []
        self.given: set[int] = set()
        self.leaving = False
        self.saved_step: int | None = None
        self.changed = asyncio.Condition()

    async def post(self, order: StageOrder | None) -> int:
        """Adds an order, or None for "go home"; returns its number."""
        async with self.changed:
            self.orders.append(order)
            self.changed.notify_all()
        return len(self.orders)

    async def order(self, after: int) -> tuple[int, StageOrder | None]:
        """The first order beyond number `after` that has no result, as soon as there is one.

        A group that is to leave still gets what one of its ranks has got already, so that no rank waits alone.
        """
        async with self.changed:
            while True:
                for number in range(after + 1, len(self.orders) + 1):
                    if number not in self.results and (number in self.given or not self.leaving):
                        self.given.add(number)
                        return number, self.orders[number - 1]
                if self.leaving:
                    return after, None
                await self.changed.wait()

    async def progress(self, progress: Progress) -> bool:
        """Keeps the newest progress; returns whether the group is to leave."""
        self.latest = progress
        return self.leaving

    async def say(self, text: str) -> None:
        """Keeps something that a person should read."""
        self.notes.append(text)

    async def leave(self) -> None:
        """Asks the group to save the running stage and to go home."""
        async with self.changed:
            self.leaving = True
            self.changed.notify_all()

    async def leave_at(self, step: int) -> None:
        """Keeps the step after which a leaving group saved its stage."""
        self.saved_step = step

    async def left_at(self) -> int | None:
        """The step after which the group saved its stage and left."""
        return self.saved_step

    async def finish(self, number: int, result: StageResult | UserError) -> None:
        """Keeps the result of an order, or the user's mistake that no retry can mend."""
        self.results[number] = result

    async def look(self, number: int) -> tuple[Progress | None, list[str], StageResult | UserError | None]:
        """The newest progress, what was said since the last look, and the order's result once it is there."""
        notes, self.notes = self.notes, []
        return self.latest, notes, self.results.get(number)
