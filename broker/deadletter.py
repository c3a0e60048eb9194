"""What is kept of a job that is put aside: its body only where its caller allows that; pure.

`log_query_body: false` means the same in all lanes. What an answer said is in no dead letter.
"""

from __future__ import annotations

from broker.translate import lines
from broker.v1 import job_pb2


def letter(job: job_pb2.Job) -> bytes:
    """The job as it goes to the dead letters; the secret of its claim is worth nothing there.

    A body that was too large for the queue is not in it, nor is a reference to one: what is there
    may not be kept, and is gone soon.
    """
    kept = job_pb2.Job()
    kept.CopyFrom(job)
    kept.ClearField("claim_secret")
    if not _loggable(kept):
        # A line still says which it is.
        (kept.line if kept.HasField("line") else kept).ClearField("body")
    return kept.SerializeToString()


def _loggable(job: job_pb2.Job) -> bool:
    match job.WhichOneof("body"):
        case "request":
            platform = job.request.platform
            return platform.log_query_body or not platform.HasField("log_query_body")
        case "line":
            return not job.line.json or lines.loggable(job.line.json)
        case "body_reference":
            return False
    return True
