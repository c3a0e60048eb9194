"""The end of a background response: a real NATS, and what is found in USAGE afterwards."""

from __future__ import annotations

import pytest

from broker import durable
from broker.bus import Bus
from broker.bus.eventlog import EventLog
from broker.bus.queue import ACK, Publisher
from broker.bus.recorder import Recorder
from broker.bus.responses import Responses
from broker.bus.usage import usage_groups
from broker.catalog.bill import Bill
from broker.catalog.catalog import Catalog
from broker.catalog.offers import Offer, Rates
from broker.v1 import event_pb2, inference_service_pb2, job_pb2, record_pb2, stored_pb2
from workers.ending import Ending

PRICES = {"input_tokens": 2_000_000_000, "output_tokens": 10_000_000_000}
FLEX = {"flex": Rates({"input_tokens": 1_000_000_000, "output_tokens": 5_000_000_000})}
OFFER = Offer("openai", "gpt-4o", "openai/gpt-4o", rates=Rates(PRICES), variants=FLEX, source="x")
BILL = Bill(Catalog([OFFER], date="2026-11-01"))
ROUTE = job_pb2.Route(provider="openai", pool="main", model="gpt-4o")


async def charge_of(bus: Bus, tier: str) -> record_pb2.Charge:
    """The one charge of a response that a worker completed."""
    publisher = Publisher(bus, timeout_s=2.0)
    await publisher.start()
    stored = Responses(bus)
    log = EventLog(bus, stored.blobs)
    recorder = Recorder(publisher)
    ending = Ending(stored, log, publisher, recorder, BILL)
    record = stored_pb2.StoredResponse(
        id="resp_1",
        owner="t",
        tenant="t",
        attempt=1,
        route=ROUTE,
        status=stored_pb2.RESPONSE_STATUS_IN_PROGRESS,
    )
    await stored.responses.create(record)
    answer = inference_service_pb2.Answer(
        model="gpt-4o",
        service_tier=tier,
        usage=event_pb2.Usage(input_tokens=1000, output_tokens=100),
    )

    def complete(found: stored_pb2.StoredResponse) -> None:
        durable.complete(found, answer, 1)

    job = job_pb2.Job(request_id="resp_1", attempt=1, owner="t", route=ROUTE)
    assert await ending.finish(job, 0, complete) == ACK
    await recorder.close()
    await publisher.close()
    [charge] = [charge async for group in usage_groups(bus) for charge in group.charges]
    return charge


@pytest.mark.parametrize(("tier", "nano_usd"), [("", 3_000_000), ("flex", 1_500_000)])
async def test_a_background_response_is_charged_with_what_it_costs(
    bus: Bus, tier: str, nano_usd: int
) -> None:
    charge = await charge_of(bus, tier)
    assert charge.cost == event_pb2.Cost(nano_usd=nano_usd, source="x", date="2026-11-01")
