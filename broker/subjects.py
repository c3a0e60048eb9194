"""Names on the bus: lanes, subjects, streams, consumers, buckets and message ids; pure."""

from __future__ import annotations

import re
import zlib

# Lane -> work-queue stream.
LANES: dict[str, str] = {"int": "INT", "bg": "BG", "bat": "BAT"}
INTERACTIVE = "int"
BACKGROUND = "bg"
BATCH = "bat"
DEFAULT_POOL = "main"
# The model token of models that the catalogue does not list.
UNLISTED = "_"

# Buckets of keys and values.
CFG = "cfg"
KEYS = "keys"
WORKERS = "workers"
BREAKER = "breaker"
CAPACITY = "capacity"
BATCHES = "batches"
RESPONSES = "responses"
IDEMPOTENCY = "idempotency"
# A bucket and a store of objects.
FILES = "files"
# Stores of objects.
BATCH_IN = "batch_in"
BATCH_OUT = "batch_out"
BLOBS = "blobs"
OBJECT_STORES = (BATCH_IN, BATCH_OUT, FILES, BLOBS)

_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


def token(name: str) -> str:
    """`name` as one subject token: everything but letters, digits, `-` and `_` becomes `_`."""
    return _NOT_TOKEN.sub("_", name) or UNLISTED


def job(lane: str, provider: str, pool: str, model: str) -> str:
    """Subject of one attempt; `model` is a catalogued name or `UNLISTED`."""
    return f"req.{lane}.{token(provider)}.{token(pool)}.{token(model)}"


def job_filter(lane: str, provider: str, pool: str) -> str:
    """What the consumer of a lane's pool listens to."""
    return f"req.{lane}.{token(provider)}.{token(pool)}.*"


def consumer(lane: str, provider: str, pool: str) -> str:
    """Durable name of a lane's pool."""
    return f"{lane}-{token(provider)}-{token(pool)}"


def due(lane: str, provider: str, pool: str, model: str) -> str:
    """Where a delayed job of this lane comes due."""
    return f"due.{lane}.{token(provider)}.{token(pool)}.{token(model)}"


def schedule(lane: str, name: str, target: str = "") -> str:
    """Where a delayed job waits; one at a time under a name. `target` is where it goes then."""
    return f"sched.{lane}.{place(target) + '-' if target else ''}{token(name)}"


def place(subject: str) -> str:
    """A short name of a subject, for a part of another one."""
    return f"{zlib.crc32(subject.encode()):08x}"


def cancel(provider: str, pool: str) -> str:
    """Core subject that tells a pool's workers of cancelled background responses."""
    return f"cancel.{token(provider)}.{token(pool)}"


def delay(batch_id: str) -> str:
    """Core subject that tells why lines of a batch have to wait."""
    return f"delay.{token(batch_id)}"


def events(response_id: str) -> str:
    """Subject of a background response's log."""
    return f"events.{token(response_id)}"


def stored_key(owner: str, name: str) -> str:
    """Key of an owner's response or conversation in `responses`."""
    return f"{token(owner)}.{token(name)}"


def file_key(owner: str, name: str) -> str:
    """Key of an owner's file in `files`; `*` as the name is all of them."""
    return f"f.{token(owner)}.{name}"


def upload_key(owner: str, name: str) -> str:
    """Key of an owner's upload."""
    return f"u.{token(owner)}.{name}"


def part_key(owner: str, upload: str, name: str) -> str:
    """Key of a part of an upload."""
    return f"p.{token(owner)}.{upload}.{name}"


def direct(provider: str, pool: str) -> str:
    """Core request subject used while the stream has no leader (R14)."""
    return f"direct.{token(provider)}.{token(pool)}"


def result(batch_id: str, line: int) -> str:
    """Subject of what became of a line of a batch."""
    return f"res.{token(batch_id)}.{line}"


def results(batch_id: str) -> str:
    """Subjects of all that became of a batch's lines."""
    return f"res.{token(batch_id)}.*"


def line_id(batch_id: str, line: int) -> str:
    """The request id of a line of a batch: the same in every process, however often it is run."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


def group_id(batch_id: str, line: int) -> str:
    """The request id of the lines of a batch that a provider's own batch takes, by the first."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_g{line}"


def batch_key(owner: str, batch_id: str) -> str:
    """Key of an owner's batch in `batches`."""
    return f"b.{token(owner)}.{token(batch_id)}"


def batch_name_key(owner: str, digest: str) -> str:
    """Key in `batches` of what an owner calls a batch; `digest` is of the name."""
    return f"n.{token(owner)}.{digest}"


def active_key(batch_id: str) -> str:
    """Key in `batches` that is there until a batch is over; its value is the batch's key."""
    return f"active.{token(batch_id)}"


def stop_key(batch_id: str) -> str:
    """Key in `batches` that tells workers what its queued lines end with: the error's code."""
    return f"stop.{token(batch_id)}"


def live_key(batch_id: str) -> str:
    """Key in `batches` that has workers run at once what of a batch is still at providers."""
    return f"live.{token(batch_id)}"


def usage(tenant: str) -> str:
    """Subject of attempt records and charges."""
    return f"usage.{token(tenant)}"


def dead_letter(lane: str, provider: str, pool: str) -> str:
    """Subject of poison jobs."""
    return f"dlq.{lane}.{token(provider)}.{token(pool)}"


def message_id(request_id: str, attempt: int) -> str:
    """`Nats-Msg-Id` of an attempt (R2)."""
    return f"{request_id}.{attempt}"


def worker_key(provider: str, worker: str) -> str:
    """Key of a worker's presence lease."""
    return f"w.{token(provider)}.{token(worker)}"


def once_key(tenant: str, digest: str) -> str:
    """Key of a request that its caller named; `digest` is of the name."""
    return f"{token(tenant)}.{digest}"


def breaker_key(provider: str, model: str, fingerprint: str = "") -> str:
    """Key of an open breaker: of a provider's model, or of one credential for it."""
    place = f"{token(provider)}.{token(model)}"
    return f"{place}.{token(fingerprint)}" if fingerprint else place


# No name of a provider begins like that.
PROBES = "=probe."


def probe_key(provider: str, model: str) -> str:
    """Key in `breaker` of whose turn it is to try one that is half-open."""
    return f"{PROBES}{token(provider)}.{token(model)}"


def capacity_report(provider: str) -> str:
    """Core subject of what a provider's workers report to the leader."""
    return f"capacity.{token(provider)}"


CAPACITY_REPORTS = "capacity.*"
# Core subject on which the leader says how the places stand.
STANDINGS = "standings"
# Key in `capacity` of who leads.
LEADER = "leader.capacity"


def allowance_key(provider: str, fingerprint: str, model: str) -> str:
    """Key in `capacity` of what a place allows."""
    exact = zlib.crc32(model.encode())
    return f"p.{token(provider)}.{token(fingerprint)}.{token(model)}-{exact:08x}"


def allowance_keys(provider: str) -> str:
    """Those of one provider."""
    return f"p.{token(provider)}.>"


EDGE_KEYS = "e.*"


def edge_key(edge: str) -> str:
    """Key of an edge's presence lease, in the same bucket."""
    return f"e.{token(edge)}"


def pool_key(provider: str, pool: str) -> str:
    """Key in `cfg` that says a pool's consumers exist."""
    return f"pool.{token(provider)}.{token(pool)}"
