"""The standing pull: what was asked for comes, no more than that, and whatever happens goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from broker import subjects
from broker.bus import Bus
from broker.bus.jobs import settle
from broker.bus.layout import ensure_layout, ensure_pool
from broker.bus.queue import ACK, IN_PROGRESS, Delivery, Puller, nak
from tests.broker.bus.server import NatsServer, Proxy, until

JOB = subjects.job("int", "sim", "main", "_")
CONSUMER = subjects.consumer("int", "sim", "main")


class Taker:
    """A worker reduced to its pull: keeps `slots` credits or jobs, and counts what comes."""

    def __init__(
        self, bus: Bus, slots: int, *, expires_s: float = 30, heartbeat_s: float = 5
    ) -> None:
        self.bus = bus
        self.slots = slots
        self.taken: list[Delivery] = []
        self.running = 0
        self.most = 0
        self.unused = 0
        self.asked = 0
        self.puller = Puller(bus, "INT", CONSUMER, self._message, self._unused)
        self.puller._expires = expires_s
        self.puller._heartbeat = heartbeat_s
        self.greedy = True

    async def start(self) -> None:
        await self.puller.start()
        self.top_up()

    def top_up(self) -> None:
        free = self.slots - self.running - self.puller.credits
        if self.greedy and free > 0:
            self.asked += 1
            self.puller.pull(free)

    def _message(self, delivery: Delivery) -> None:
        self.taken.append(delivery)
        self.running += 1
        self.most = max(self.most, self.running)

    def _unused(self) -> None:
        self.unused += 1
        self.top_up()

    async def has_taken(self, count: int) -> None:
        await until(lambda: len(self.taken) >= count, f"{count} came", 4)

    async def finish(self, count: int = 1) -> None:
        for delivery in self.taken[-count:]:
            await settle(self.bus, delivery.reply, ACK)
        self.running -= count
        self.top_up()

    async def close(self) -> None:
        self.greedy = False
        await self.puller.close()


Make = Callable[..., Taker]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    takers: list[Taker] = []

    def make(bus: Bus, slots: int, **options: float) -> Taker:
        takers.append(Taker(bus, slots, **options))
        return takers[-1]

    yield make
    for taker in takers:
        await taker.close()


async def publish(bus: Bus, count: int) -> None:
    for n in range(count):
        await bus.js.publish(JOB, b"%d" % n)


async def waiting_pulls(bus: Bus) -> int:
    return (await bus.js.consumer_info("INT", CONSUMER)).num_waiting or 0


async def test_what_was_asked_for_comes_and_no_more(bus: Bus, make: Make) -> None:
    taker = make(bus, 3)
    await taker.start()
    await publish(bus, 10)
    await until(lambda: len(taker.taken) == 3, "three came")
    assert taker.puller.credits == 0
    await asyncio.sleep(0.1)
    assert [d.data for d in taker.taken] == [b"0", b"1", b"2"]
    await taker.finish(3)
    await until(lambda: len(taker.taken) == 6, "three more came")
    assert taker.most == 3


async def test_a_delivery_knows_how_often_it_came(bus: Bus, make: Make) -> None:
    taker = make(bus, 1)
    await taker.start()
    await publish(bus, 1)
    for times in (1, 2, 3):
        await taker.has_taken(times)
        assert taker.taken[-1].deliveries == times
        assert taker.taken[-1].subject == JOB
        await settle(bus, taker.taken[-1].reply, nak(0))
        taker.running = 0
        taker.top_up()


def test_deliveries_are_read_from_both_forms_of_the_reply_subject() -> None:
    old = Delivery("s", b"", "$JS.ACK.INT.int-sim-main.7.10.11.1700000000000000000.3")
    new = Delivery("s", b"", "$JS.ACK.hub.acc.INT.int-sim-main.7.10.11.1700000000000000000.3.tok")
    assert (old.deliveries, new.deliveries) == (7, 7)


async def test_a_job_handed_back_comes_again_at_once_or_after_its_delay(
    bus: Bus, make: Make
) -> None:
    taker = make(bus, 10)
    await taker.start()
    await publish(bus, 1)
    await until(lambda: taker.taken, "it came")
    begun = time.monotonic()
    await settle(bus, taker.taken[0].reply, nak(0))
    await until(lambda: len(taker.taken) == 2, "it came again")
    assert time.monotonic() - begun < 0.2
    begun = time.monotonic()
    await settle(bus, taker.taken[1].reply, nak(0.4))
    await until(lambda: len(taker.taken) == 3, "and again")
    assert 0.35 < time.monotonic() - begun < 0.8


async def test_an_extended_job_stays_and_an_acked_one_is_gone(bus: Bus, make: Make) -> None:
    config = (await bus.js.consumer_info("INT", CONSUMER)).config
    config.ack_wait = 0.3
    await bus.js.add_consumer("INT", config)
    taker = make(bus, 10)
    await taker.start()
    await publish(bus, 1)
    await until(lambda: taker.taken, "it came")
    for _ in range(8):
        await asyncio.sleep(0.1)
        await settle(bus, taker.taken[0].reply, IN_PROGRESS)
    assert len(taker.taken) == 1
    await until(lambda: len(taker.taken) == 2, "left alone, it comes again", 2)
    await settle(bus, taker.taken[1].reply, ACK)

    async def gone() -> bool:
        return (await bus.js.stream_info("INT")).state.messages == 0

    await until(gone, "the acked job is gone")


async def test_credits_that_ran_out_of_time_come_back(bus: Bus, make: Make) -> None:
    taker = make(bus, 4, expires_s=0.5, heartbeat_s=0.1)
    await taker.start()
    await until(lambda: taker.unused >= 3, "the pull expires and is asked for again", 4)
    assert 1 <= taker.puller.credits <= 4
    await publish(bus, 6)
    await until(lambda: len(taker.taken) == 4, "they still come")


async def test_the_server_never_owes_more_than_the_credits_say(bus: Bus, make: Make) -> None:
    """Pulls of several sizes lie side by side, are used in turns by the server, and expire."""
    taker = make(bus, 8, expires_s=1.2, heartbeat_s=0.2)
    await taker.start()
    await until(lambda: taker.puller.credits == 8, "asked")
    end = time.monotonic() + 6
    number = 0
    while time.monotonic() < end:
        # A few jobs one after the other: each end asks for one more in a pull of its own.
        await publish(bus, 3)
        number += 3
        await taker.has_taken(number)
        for _ in range(3):
            await taker.finish(1)
        await asyncio.sleep(0.05)
        assert 0 <= taker.puller.credits <= 8
        # A burst: no more may come than there are slots.
        if number % 30 == 0:
            taker.most = 0
            before = len(taker.taken)
            await publish(bus, 20)
            await until(lambda: taker.running >= 8, "the slots are filled", 4)
            await asyncio.sleep(0.1)
            assert taker.most == 8
            while taker.running or len(taker.taken) < before + 20:
                if taker.running:
                    await taker.finish(1)
                await asyncio.sleep(0.001)
            number += 20
            assert taker.most == 8


async def test_a_delivery_is_charged_to_the_pull_that_it_was_for(bus: Bus, make: Make) -> None:
    taker = make(bus, 0, expires_s=20, heartbeat_s=0.2)
    await taker.start()
    taker.puller.pull(5)
    taker.puller.pull(3)
    await asyncio.sleep(0.05)
    await publish(
        bus, 6
    )  # the server serves them in turns: 2 are left of the first, 0 of the second
    await taker.has_taken(6)
    assert taker.puller.credits == 2
    await asyncio.sleep(1)  # the second one's heartbeats have ended
    assert taker.puller.credits == 2
    taker.puller.pull(2)
    await publish(bus, 10)
    await taker.has_taken(10)
    await asyncio.sleep(0.1)
    assert len(taker.taken) == 10


async def test_all_slots_can_be_used_after_a_long_time_of_single_jobs(bus: Bus, make: Make) -> None:
    taker = make(bus, 4, expires_s=2, heartbeat_s=0.3)
    await taker.start()
    end = time.monotonic() + 5
    number = 0
    while time.monotonic() < end:
        await publish(bus, 1)
        number += 1
        await taker.has_taken(number)
        await taker.finish(1)
        await asyncio.sleep(0.01)
    begun = time.monotonic()
    await publish(bus, 8)
    await until(lambda: taker.running == 4, "all slots are used")
    assert time.monotonic() - begun < 0.5
    await asyncio.sleep(0.1)
    assert taker.running == 4


async def test_a_killed_server_that_returns_is_pulled_from_within_a_second(
    nats: NatsServer, bus: Bus, make: Make
) -> None:
    taker = make(bus, 4)
    await taker.start()
    await publish(bus, 2)
    await until(lambda: len(taker.taken) == 2, "two came")
    nats.kill()
    await asyncio.sleep(0.3)
    await nats.start()
    await until(lambda: bus.connected, "reconnected")
    begun = time.monotonic()
    await publish(bus, 4)
    # The two that run are leased still; two more fit.
    await until(lambda: len(taker.taken) >= 4, "two more came")
    assert time.monotonic() - begun < 1.5
    await asyncio.sleep(0.2)
    assert taker.most == 4
    assert taker.puller.credits == 0


async def test_a_broken_connection_does_not_double_what_is_asked_for(
    far: Bus, bus: Bus, proxy: Proxy, make: Make
) -> None:
    taker = make(far, 4)
    await taker.start()
    for _ in range(3):
        base = far.nc.stats["reconnects"]
        proxy.cut()
        await until(lambda base=base: far.nc.stats["reconnects"] > base, "reconnected")  # type: ignore[misc]
        await until(lambda: taker.puller.credits == 4, "asked again")
    await publish(bus, 30)
    await until(lambda: taker.running >= 4, "they come")
    await asyncio.sleep(0.3)
    assert taker.most == 4


async def test_a_path_that_swallows_everything_is_noticed_by_its_silence(
    far: Bus, bus: Bus, proxy: Proxy, make: Make
) -> None:
    taker = make(far, 4, expires_s=30, heartbeat_s=0.2)
    await taker.start()
    await until(lambda: taker.puller.credits == 4, "asked")
    await asyncio.sleep(0.3)
    proxy.stall()
    base = taker.unused
    await until(lambda: taker.unused > base, "the pull is given up", 3)
    proxy.flow()
    await publish(bus, 2)
    await until(lambda: len(taker.taken) == 2, "they come")


async def test_a_consumer_that_is_deleted_and_made_again_is_pulled_from(
    bus: Bus, make: Make
) -> None:
    taker = make(bus, 4)
    await taker.start()
    await until(lambda: taker.puller.credits == 4, "asked")
    await bus.js.delete_consumer("INT", CONSUMER)
    await asyncio.sleep(1.0)
    # It is asked for, but not in a hot loop.
    assert taker.asked < 10
    await ensure_pool(bus, "sim", "main", 4)
    await publish(bus, 6)
    await until(lambda: taker.running == 4, "they come", 3)
    await asyncio.sleep(0.2)
    assert taker.most == 4


async def test_a_server_that_lost_its_disk_is_pulled_from_once_it_is_laid_out(
    nats: NatsServer, bus: Bus, make: Make
) -> None:
    taker = make(bus, 4)
    await taker.start()
    nats.kill()
    nats.wipe()
    await nats.start()
    await until(lambda: bus.connected, "reconnected")
    await ensure_layout(bus, 1)
    await ensure_pool(bus, "sim", "main", 4)
    await publish(bus, 6)
    await until(lambda: taker.running == 4, "they come", 3)


async def test_leaving_takes_the_standing_pull_along(bus: Bus, make: Make) -> None:
    leaver, stayer = make(bus, 8), make(bus, 2)
    await leaver.start()
    await stayer.start()

    async def both() -> bool:
        return await waiting_pulls(bus) == 2

    await until(both, "both pull")
    leaver.greedy = False
    await leaver.close()
    await publish(bus, 2)
    await until(lambda: len(stayer.taken) == 2, "the one who stayed has both", 2)
    assert leaver.taken == []
