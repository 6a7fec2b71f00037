"""A loader with workers as a queue: how its rate grows with workers, by formula. Pure.

The parent is one server. It spends `batch_s` on each batch (a slot leased, arrays made of it, delivered) and `task_s` on each task (sent, answered).
Workers need `work_s` of processor time for a batch. What is in work at once is the engine's to say (`loaders.pooled.Shape`, which it makes itself): so
many slots as long as the consumer waits for each, cut into so many tasks, none of fewer than so many rows. More workers than there are tasks have
nothing to do. The rate is the lesser of what those that work make and what the parent hands over; it knows nothing of waiting, for which
`scaling_engine` runs the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from penstock.loaders.pooled import Shape
from penstock.loaders.slots import chunks

ShapeAt = Callable[[int], Shape]
"""Returns how the engine lays out and cuts batches for so many workers."""


def tasks(shape: Shape) -> int:
    """Return into how many tasks a slot is cut."""
    return len(chunks(shape.rows, shape.parts, shape.smallest)) if shape.together == 1 else 1


def at_work(shape: Shape, workers: int) -> int:
    """Return how many of so many workers have something to do while the consumer waits for every batch."""
    return min(workers, shape.least * tasks(shape))


class Cost(NamedTuple):
    """What was measured, in seconds of processor time.

    Attributes:
        rows: of a batch.
        batch_s: the parent's for a batch, beside its tasks.
        task_s: the parent's for a task.
        work_s: of workers for a batch.
    """

    rows: int
    batch_s: float
    task_s: float
    work_s: float

    def parent_s(self, shape: Shape) -> float:
        """Return the parent's time for a batch."""
        return self.batch_s + self.task_s * tasks(shape) / shape.together

    def rate(self, shape: Shape, workers: int) -> float:
        """Return samples per second by formula."""
        return self.rows * min(at_work(shape, workers) / self.work_s, 1 / self.parent_s(shape))


def fitted(points: Mapping[int, float], shape_at: ShapeAt, rows: int, work_s: float) -> Cost:
    """Return the cost whose parent's time goes best through what was measured at each number of workers (least squares, none below zero)."""
    parts = {workers: tasks(shape_at(workers)) / shape_at(workers).together for workers in points}
    mean_x, mean_y = sum(parts.values()) / len(points), sum(points.values()) / len(points)
    square = sum((parts[w] - mean_x) ** 2 for w in points)
    slope = max(sum((parts[w] - mean_x) * (points[w] - mean_y) for w in points) / square, 0.0) if square else 0.0
    return Cost(rows, max(mean_y - slope * mean_x, 0.0), slope, work_s)


def saturation(cost: Cost, shape_at: ShapeAt, most: int) -> int | None:
    """Return the least number of workers, of at most `most`, that keep the parent busy all the time; None when none do."""
    shapes = ((workers, shape_at(workers)) for workers in range(1, most + 1))
    return next((w for w, shape in shapes if at_work(shape, w) / cost.work_s >= 1 / cost.parent_s(shape)), None)


def useful(shape_at: ShapeAt, most: int) -> int:
    """Return the largest number of workers, of at most `most`, that all have something to do while the consumer waits."""
    return max(workers for workers in range(1, most + 1) if at_work(shape_at(workers), workers) == workers)
