"""Whether lines of a batch go to their provider's own batch API, and until when; pure.

Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.batch.chunks import Size
from broker.errors import InferenceError
from broker.routing import Target
from broker.v1 import batch_pb2

NATIVE = "native"
AUTO = "auto"
# With "auto": what is shorter or smaller is sooner done live.
LONG_WINDOW_S = 86_400
ENOUGH_LINES = 100
# What a provider has not answered when so little of the window is left runs live: a part of it,
# and at least so many seconds, but no more than half of it.
_RAMP = 0.1
_RAMP_S = 900
# Lines that are handed over together: a worker has them in memory.
SIZE = Size(5000, 8 << 20)

HasBatches = Callable[[Target], bool]


def possible(record: batch_pb2.StoredBatch) -> bool:
    """Whether lines may have gone to a provider's batch API."""
    return record.options.execution in {NATIVE, AUTO}


def live_at(record: batch_pb2.StoredBatch) -> float:
    """When all that is left runs live."""
    return record.expires_at - min(max(_RAMP * record.window_s, _RAMP_S), record.window_s / 2)


def wanted(record: batch_pb2.StoredBatch, now: float) -> bool:
    """Whether lines are to be handed over, where their provider takes them.

    Lines that were lost on the way are run live.
    """
    if not possible(record) or record.progress.epoch or now >= live_at(record):
        return False
    if record.options.execution == NATIVE:
        return True
    return record.window_s >= LONG_WINDOW_S and record.progress.total >= ENOUGH_LINES


def handed_over(targets: tuple[Target, ...], has_batches: HasBatches) -> tuple[Target, ...] | None:
    """The targets with the first one in front that has a batch API; None where none has."""
    able = next((target for target in targets if has_batches(target)), None)
    if able is None:
        return None
    return able, *(target for target in targets if target is not able)


def unsupported(targets: tuple[Target, ...]) -> InferenceError:
    """What a line is told that asked for nothing but a batch API."""
    return InferenceError(
        "unsupported_operation",
        f"{targets[0].provider} has no batch API that lines could be handed over to: ask for "
        "execution live or auto",
        param="execution",
        provider=targets[0].provider,
    )
