"""A loader with workers as a queue: how its rate grows with workers, by formula and by simulation. Pure.

The parent is one server. It spends `batch_s` on each batch (a slot leased, arrays made of it, delivered) and `task_s` on each task (sent, answered).
Workers need `work_s` of processor time for a batch, which is cut into as many tasks as there are workers, but none smaller than `smallest` rows.
By formula the rate is the lesser of what workers make and what the parent hands over. The simulation follows tasks one by one, with times that
scatter, a window of batches in flight and delivery in order, as `loaders.pooled` has them; so it knows of waiting that the formula does not.
"""

from __future__ import annotations

import heapq
import math
import random
from typing import NamedTuple

MOST_WORKERS = 4096
"""Where looking for saturation ends."""


class Cost(NamedTuple):
    """What was measured, in seconds of processor time.

    Attributes:
        rows: of a batch.
        batch_s: the parent's for a batch, beside its tasks.
        task_s: the parent's for a task.
        work_s: of workers for a batch.
        smallest: rows of a task at least; as many as a batch has where batches are not cut.
    """

    rows: int
    batch_s: float
    task_s: float
    work_s: float
    smallest: int = 8

    def parts(self, workers: int) -> int:
        """Return into how many tasks a batch is cut."""
        return max(min(workers, self.rows // self.smallest), 1)

    def parent_s(self, workers: int) -> float:
        """Return the parent's time for a batch."""
        return self.batch_s + self.task_s * self.parts(workers)

    def rate(self, workers: int) -> float:
        """Return samples per second by formula."""
        return self.rows * min(workers / self.work_s, 1 / self.parent_s(workers))


def fitted(points: dict[int, float], rows: int, work_s: float, smallest: int = 8) -> Cost:
    """Return the cost whose parent's time goes best through what was measured at each number of workers (least squares, none below zero)."""
    parts = {workers: Cost(rows, 0.0, 0.0, work_s, smallest).parts(workers) for workers in points}
    mean_x, mean_y = sum(parts.values()) / len(points), sum(points.values()) / len(points)
    square = sum((parts[w] - mean_x) ** 2 for w in points)
    slope = max(sum((parts[w] - mean_x) * (points[w] - mean_y) for w in points) / square, 0.0) if square else 0.0
    return Cost(rows, max(mean_y - slope * mean_x, 0.0), slope, work_s, smallest)


def saturation(cost: Cost) -> int:
    """Return the least number of workers that keep the parent busy all the time; `MOST_WORKERS` when there is none below."""
    return next((w for w in range(1, MOST_WORKERS) if w / cost.work_s >= 1 / cost.parent_s(w)), MOST_WORKERS)


def simulated(cost: Cost, workers: int, *, batches: int = 400, scatter: float = 0.3, seed: int = 0) -> tuple[float, float]:
    """Follow `batches` batches through the queue, and return samples per second and the part of the time that the parent was busy.

    Args:
        cost: of the parts.
        workers: how many.
        batches: how many, delivered as soon as they can be.
        scatter: standard deviation of the logarithm of a task's time.
        seed: of the times.
    """
    draw, parts, window = random.Random(seed), cost.parts(workers), 2 * workers
    mean = cost.work_s / parts / math.exp(scatter**2 / 2)
    free_at = [0.0] * workers
    heapq.heapify(free_at)
    answers: list[tuple[float, int]] = []
    left: dict[int, int] = {}
    now = busy = 0.0

    def issue(batch: int) -> None:
        left[batch] = parts
        for _ in range(parts):
            ends = max(heapq.heappop(free_at), now) + mean * math.exp(draw.gauss(0, scatter))
            heapq.heappush(free_at, ends)
            heapq.heappush(answers, (ends, batch))

    for batch in range(min(max(window, 2), batches)):
        issue(batch)
    for batch in range(batches):
        while left[batch]:
            came, of = heapq.heappop(answers)
            now = max(now, came) + cost.task_s
            busy += cost.task_s
            left[of] -= 1
        now += cost.batch_s
        busy += cost.batch_s
        if batch + max(window, 2) < batches:
            issue(batch + max(window, 2))
    return cost.rows * batches / now, busy / now
