"""What a loader saves: a small dict that JSON can hold, counting what the consumer received and naming everything that decides the order.

Never saved: an index list, a generator, a rank, a worker. Cost: a few hundred bytes, whatever the size of the dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .. import order
from ..errors import BadRequest
from .law import Ordering
from .plan import Plan

FORMAT = 1
"""The version of the state dict."""

NAMED = "sampler_epoch"
"""Of a state: the epoch that the sampler was told last, where that is another than the state's."""

_DEFAULTS = Ordering(0, False)._asdict()
"""What a plan says that says nothing of some names, as states did once."""


class Fingerprint(NamedTuple):
    """Everything that decides the global order of samples.

    Attributes:
        dataset_version: the pinned version.
        dataset_digest: hash over the schema and the shards of that version.
        rows: rows of the dataset.
        epoch_rows: positions of an epoch.
        ordering: what decides the order beside the dataset.
        order_format: version of the law of order.
    """

    dataset_version: int
    dataset_digest: str
    rows: int
    epoch_rows: int
    ordering: Ordering
    order_format: int = order.FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the names and values that are compared at a resume."""
        return {
            "dataset_version": self.dataset_version,
            "dataset_digest": self.dataset_digest,
            "rows": self.rows,
            **self.ordering.to_json(),
            "order_format": self.order_format,
        }

    def whole(self) -> dict[str, Any]:
        """Return all names and values, those that say nothing too."""
        return {**self.to_json(), **self.ordering._asdict()}


class Progress(NamedTuple):
    """Where training stands.

    Attributes:
        epoch: the epoch under way, or the next one to begin.
        samples: positions of that epoch consumed by all ranks together.
        under_way: whether that epoch has been entered; an epoch whose last batch was delivered but whose end was not seen still is.
    """

    epoch: int = 0
    samples: int = 0
    under_way: bool = False


def save(fingerprint: Fingerprint, progress: Progress) -> dict[str, Any]:
    """Return the state dict. It has the same keys for every loader: torch.distributed.checkpoint loads those that the loading side has, and drops others without a word."""
    return {
        "penstock_state": FORMAT,
        "plan": fingerprint.whole(),
        "epoch": progress.epoch,
        "samples": progress.samples,
        "under_way": progress.under_way,
        "tickets": None,
        "ticket_rows": None,
        NAMED: None,
    }


def load(saved: object, fingerprint: Fingerprint, accept: Collection[str] = ()) -> Progress:
    """Return the progress a state dict holds; differences in what `accept` names are let pass.

    Raises:
        BadRequest: it is no state dict of this format, or it was made under another plan; every difference is named.
    """
    if not isinstance(saved, Mapping) or saved.get("penstock_state") != FORMAT:
        found = saved.get("penstock_state") if isinstance(saved, Mapping) else type(saved).__name__
        raise BadRequest(f"not a state of penstock.DataLoader in format {FORMAT}: found {found!r}")
    told, have = saved.get("plan"), fingerprint.whole()
    if not isinstance(told, Mapping):
        raise BadRequest(f"the state has no plan to compare with: found {told!r}")
    told = {**{name: _DEFAULTS[name] for name in ("window_shards", "lanes", "epoch_samples")}, **told}
    names = [*have, *(name for name in told if name not in have)]
    given: Any = accept
    if isinstance(given, str) or not isinstance(given, Collection) or any(name not in names for name in given):
        raise BadRequest(f"accept={accept!r} is no list of what a plan has: {names}")
    different = [name for name in names if told.get(name) != have.get(name) and name not in accept]
    if different:
        listed = "; ".join(f"{name} was {_shown(told, name)}, is {_shown(have, name)}" for name in different)
        raise BadRequest(
            f"the state was saved under another plan: {listed}. Open the same dataset version with the same arguments to resume, "
            f"or go on knowingly, in another order from here on, with load_state_dict(state, accept={different})"
        )
    most = fingerprint.epoch_rows
    epoch, samples, under_way = saved.get("epoch"), saved.get("samples"), saved.get("under_way")
    if type(epoch) is not int or type(samples) is not int or type(under_way) is not bool or epoch < 0 or not 0 <= samples <= most:
        raise BadRequest(
            f"the state holds epoch {epoch!r}, samples {samples!r}, under_way {under_way!r}, which is no place in epochs of {most} samples"
        )
    check_epoch(epoch, most)
    return Progress(epoch=epoch, samples=samples, under_way=under_way)


def check_epoch(epoch: int, positions: int) -> None:
    """Refuse an epoch whose positions no 64-bit number counts.

    Raises:
        BadRequest: it is one.
    """
    if (epoch + 1) * max(positions, 1) > order.MAX_ROWS:
        raise BadRequest(f"epoch {epoch} of {positions} samples each lies beyond sample 2**62, where a run ends")


def tickets_of(saved: Mapping[str, Any], standing: Progress, plan: Plan, *, drawn: bool) -> list[tuple[int, int]]:
    """Return the tickets that were done of the epoch that a state stands in, as first and last of each stretch.

    Raises:
        BadRequest: the state is of tickets and the loader is not, or it stands inside a ticket, or holds no tickets of this plan.
    """
    told: Any = saved.get("tickets")
    if told is not None and not drawn:
        raise BadRequest("the state was saved by a loader with tickets=, whose batches are done in any order: resume it with tickets=")
    if told is None:
        whole, rest = divmod(standing.samples, plan.batch_size)
        if drawn and rest and standing.samples < plan.rows:
            raise BadRequest(
                f"the state stands at sample {standing.samples}, inside a ticket of {plan.batch_size}: resume it with a batch_size that divides it"
            )
        return [(0, min(whole + (rest > 0), plan.steps()) - 1)] if drawn and standing.samples else []
    steps, size = plan.steps(), saved.get("ticket_rows")
    if told and size != plan.batch_size:
        raise BadRequest(
            f"the state holds tickets of {size!r} rows, and this loader has batch_size={plan.batch_size}: resume it with batch_size={size}; "
            "another one can be gone on with from a state that was saved between two epochs"
        )
    good = isinstance(told, list) and all(isinstance(one, (list, tuple)) and len(one) == 2 for one in told)
    if not good or any(type(n) is not int for one in told for n in one) or any(not 0 <= first <= last < steps for first, last in told):
        raise BadRequest(f"the state holds tickets {str(told)[:100]}, which are no stretches of the {steps} of an epoch")
    return [(first, last) for first, last in told]


def _shown(plan: Mapping[str, Any], name: str) -> str:
    return repr(plan[name]) if name in plan else "left out"
