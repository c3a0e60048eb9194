"""How a batch goes on from state to state: edits of its record, each by compare-and-set; pure.

Times are Unix seconds. An edit returns False where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.v1 import batch_pb2

VALIDATING = batch_pb2.BATCH_STATUS_VALIDATING
FAILED = batch_pb2.BATCH_STATUS_FAILED
IN_PROGRESS = batch_pb2.BATCH_STATUS_IN_PROGRESS
FINALIZING = batch_pb2.BATCH_STATUS_FINALIZING
COMPLETED = batch_pb2.BATCH_STATUS_COMPLETED
EXPIRED = batch_pb2.BATCH_STATUS_EXPIRED
CANCELLING = batch_pb2.BATCH_STATUS_CANCELLING
CANCELLED = batch_pb2.BATCH_STATUS_CANCELLED

# Nothing becomes of a batch after these.
FINAL = frozenset({FAILED, COMPLETED, EXPIRED, CANCELLED})
# What may still be cancelled or paused: nothing is decided yet.
OPEN = frozenset({VALIDATING, IN_PROGRESS})

BATCH_CANCELLED = "batch_cancelled"
BATCH_EXPIRED = "batch_expired"
# What lines are told that end with their batch.
STOPPED = {
    BATCH_CANCELLED: "This line was not run: the batch was cancelled.",
    BATCH_EXPIRED: "This request could not be executed before the completion window expired.",
}
# Mistakes that are told.
MAX_ERRORS = 1000
MORE_ERRORS = batch_pb2.BatchError(
    code="more_errors",
    message=f"There are more mistakes than the first {MAX_ERRORS:,}, which are listed.",
)
INPUT_GONE = batch_pb2.BatchError(
    code="file_not_found",
    message="Stopped: the input file does not exist any more.",
    param="input_file_id",
)
# Finished lines before their share of errors says anything.
ENOUGH_FINISHED = 20


def begin(record: batch_pb2.StoredBatch, now: int) -> bool:
    """The input is valid: its lines may run."""
    if record.status != VALIDATING:
        return False
    record.status = IN_PROGRESS
    record.in_progress_at = now
    return True


def fail(record: batch_pb2.StoredBatch, errors: Iterable[batch_pb2.BatchError], now: int) -> bool:
    """The input is not valid: no line runs."""
    if record.status != VALIDATING:
        return False
    record.status = FAILED
    record.failed_at = now
    record.errors.extend(listed(errors))
    return True


def listed(errors: Iterable[batch_pb2.BatchError]) -> list[batch_pb2.BatchError]:
    """Mistakes as they are told: the first ones, and in the end whether there are more."""
    found = sorted(errors, key=lambda error: error.line)
    return found if len(found) <= MAX_ERRORS else [*found[:MAX_ERRORS], MORE_ERRORS]


def cancel(
    record: batch_pb2.StoredBatch, now: int, why: batch_pb2.BatchError | None = None
) -> bool:
    """Begin no more lines; `why`, where it is not the caller who wants it."""
    if record.status not in OPEN:
        return False
    record.status = CANCELLING
    record.cancelling_at = now
    if why is not None:
        record.errors.append(why)
    return True


def pause(record: batch_pb2.StoredBatch) -> bool:
    """Publish no more lines until it is resumed; the deadline stays."""
    if record.paused or record.status not in OPEN:
        return False
    record.paused = True
    return True


def resume(record: batch_pb2.StoredBatch) -> bool:
    """Go on after a pause."""
    if not record.paused:
        return False
    record.paused = False
    return True


def due_stop(record: batch_pb2.StoredBatch, now: float) -> str:
    """What the batch is to stop with that has not been stopped yet; "" = nothing."""
    if record.stop_code or record.status in FINAL or record.status == FINALIZING:
        return ""
    if record.status == CANCELLING:
        return BATCH_CANCELLED
    return BATCH_EXPIRED if now >= record.expires_at else ""


def done(record: batch_pb2.StoredBatch) -> int:
    """Results that were counted."""
    progress = record.progress
    return progress.completed + progress.failed + progress.stopped


def finalize(record: batch_pb2.StoredBatch, now: int) -> bool:
    """Every line that was begun has its result: the files can be written."""
    if record.finalizing_at or record.status not in {VALIDATING, IN_PROGRESS}:
        return False
    record.status = FINALIZING
    record.finalizing_at = now
    return True


def finish(
    record: batch_pb2.StoredBatch, output_file_id: str, error_file_id: str, now: int
) -> bool:
    """The files are written; an id is empty where there is no such line."""
    if record.status not in {FINALIZING, CANCELLING}:
        return False
    record.output_file_id = output_file_id
    record.error_file_id = error_file_id
    if record.status == CANCELLING:
        record.status = CANCELLED
        record.cancelled_at = now
    elif _cut_short(record):
        record.status = EXPIRED
        record.expired_at = now
    else:
        record.status = COMPLETED
        record.completed_at = now
    return True


def written_at(record: batch_pb2.StoredBatch) -> int:
    """When the files of this batch were made: the same whoever makes them, however often."""
    return record.cancelling_at if record.status == CANCELLING else record.finalizing_at


def overdrawn(record: batch_pb2.StoredBatch) -> batch_pb2.BatchError | None:
    """Why the batch has to stop by its own options, if it has to."""
    progress, options = record.progress, record.options
    if 0 < options.max_cost_nano <= progress.cost.nano_usd:
        return batch_pb2.BatchError(
            code="max_cost_exceeded",
            message=f"Stopped: the lines cost {progress.cost.nano_usd / 1e9:.6f} USD, and max_cost "
            f"is {options.max_cost_nano / 1e9:.6f} USD.",
            param="max_cost",
        )
    finished = progress.completed + progress.failed
    if (
        options.max_error_rate
        and finished >= min(ENOUGH_FINISHED, progress.total)
        and progress.failed > options.max_error_rate * finished
    ):
        return batch_pb2.BatchError(
            code="max_error_rate_exceeded",
            message=f"Stopped: {progress.failed} of {finished} lines failed, and max_error_rate "
            f"is {options.max_error_rate:g}.",
            param="max_error_rate",
        )
    return None


def _cut_short(record: batch_pb2.StoredBatch) -> bool:
    progress = record.progress
    ended = progress.completed + progress.failed
    return record.stop_code == BATCH_EXPIRED and (ended < progress.total or not progress.total)
