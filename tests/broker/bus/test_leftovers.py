"""What batches kept apart goes when they are over, whoever led them."""

from __future__ import annotations

from broker.bus import Bus
from broker.bus.batches import Batches
from broker.bus.leftovers import sweep_results
from broker.bus.responses import Blobs
from broker.v1 import batch_pb2

RUNS, OVER = (f"batch_{letter * 32}" for letter in "ab")


async def test_what_batches_kept_apart_goes_when_they_are_over_and_not_before(bus: Bus) -> None:
    blobs, batches = Blobs(bus), Batches(bus)
    kept = [(await blobs.put(f"res/{RUNS}", b"x")).name, f"copies/{RUNS}"]
    await blobs.put_as(kept[1], b"x")
    other = (await blobs.put("resp", b"x")).name
    gone = [(await blobs.put(f"res/{OVER}", b"x")).name for _ in range(3)] + [f"copies/{OVER}"]
    await blobs.put_as(gone[3], b"x")
    for batch in (RUNS, OVER):
        await batches.create(batch_pb2.StoredBatch(id=batch, owner="acme"))
    assert await sweep_results(bus) == 0
    await batches.let_go(OVER)
    assert await sweep_results(bus) == 4
    assert sorted(await blobs.names()) == sorted([*kept, other])
    assert [await blobs.get(name) for name in gone] == [None] * 4
    assert [await blobs.get(name) for name in (*kept, other)] == [b"x"] * 3
    assert (await bus.js.stream_info("OBJ_blobs")).state.messages == 6
    assert await sweep_results(bus) == 0
