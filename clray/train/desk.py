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
        self.changed = asyncio.Condition()

    async def post(self, order: StageOrder | None) -> int:
        """Adds an order, or None for "go home"; returns its number."""
        async with self.changed:
            self.orders.append(order)
            self.changed.notify_all()
        return len(self.orders)

    async def order(self, after: int) -> tuple[int, StageOrder | None]:
        """The first order beyond number `after` that has no result, as soon as there is one."""
        async with self.changed:
            while True:
                for number in range(after + 1, len(self.orders) + 1):
                    if number not in self.results:
                        return number, self.orders[number - 1]
                await self.changed.wait()

    async def progress(self, progress: Progress) -> None:
        """Keeps the newest progress."""
        self.latest = progress

    async def finish(self, number: int, result: StageResult | UserError) -> None:
        """Keeps the result of an order, or the user's mistake that no retry can mend."""
        self.results[number] = result

    async def look(self, number: int) -> tuple[Progress | None, StageResult | UserError | None]:
        """The newest progress, and the order's result once it is there."""
        return self.latest, self.results.get(number)
