"""What an edge does with batches, beside records, results and files that are only in memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import pytest

from broker.batch import names, projection, states
from broker.batch.lines import Head
from broker.bus.responses import ConflictError
from broker.catalog.bill import Bill
from broker.catalog.catalog import Catalog
from broker.catalog.offers import Offer, Rates
from broker.errors import InferenceError
from broker.files import file_id
from broker.fleet import UNKNOWN
from broker.keys import KeyRecord
from broker.presence import Pace
from broker.routing import Target
from broker.standing import Standing
from broker.v1 import batch_pb2, file_pb2
from edge.batches import reading
from edge.batches.estimate import Estimate, Estimating
from edge.batches.reading import Reading
from edge.batches.service import BatchService

CHAT = "/v1/chat/completions"
KEY = KeyRecord(id="k", name="k", tenant="acme", created_at=0.0)
_OWNER = KEY.owner
Status: TypeAlias = "batch_pb2.BatchStatus.ValueType"


class _Files:
    def __init__(self) -> None:
        self.kept: dict[str, tuple[file_pb2.StoredFile, bytes]] = {}
        self.read_bytes = 0
        self.held = asyncio.Event()
        self.held.set()

    def put(self, data: bytes, **more: Any) -> str:
        name = file_id(len(self.kept), b"x" * 16)
        purpose = file_pb2.FILE_PURPOSE_BATCH
        self.kept[name] = file_pb2.StoredFile(id=name, purpose=purpose, **more), data
        return name

    async def get(self, _owner: str, name: str) -> file_pb2.StoredFile | None:
        return self.kept[name][0] if name in self.kept else None

    async def read(self, file: file_pb2.StoredFile) -> AsyncGenerator[bytes, None]:
        data = self.kept[file.id][1]
        await self.held.wait()
        for start in range(0, len(data), 100_000):
            self.read_bytes += 100_000
            yield data[start : start + 100_000]


class _Batches:
    def __init__(self) -> None:
        self.kept: dict[str, batch_pb2.StoredBatch] = {}
        self.named_as: dict[str, str] = {}
        self.touched: list[str] = []

    async def get(self, _owner: str, batch_id: str) -> batch_pb2.StoredBatch | None:
        return self.kept.get(batch_id)

    async def named(self, _owner: str, digest: str, batch_id: str) -> str:
        return self.named_as.setdefault(digest, batch_id)

    async def create(self, record: batch_pb2.StoredBatch) -> None:
        if record.id in self.kept:
            raise ConflictError(record.id)
        self.kept[record.id] = record

    async def touch(self, _owner: str, batch_id: str) -> None:
        self.touched.append(batch_id)


class _Results:
    """Answers with as many results at once as have so many bytes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kept: dict[int, batch_pb2.LineResult] = {}
        self.asked: list[int] = []

    async def some(
        self, _batch_id: str, numbers: Sequence[int]
    ) -> tuple[dict[int, batch_pb2.LineResult], bool]:
        self.asked.append(len(numbers))
        there = [number for number in numbers if number in self.kept]
        left = self.most
        found: dict[int, batch_pb2.LineResult] = {}
        for number in reversed(there):  # in any order
            left -= len(self.kept[number].json)
            if left < 0 and found:
                break
            found[number] = self.kept[number]
        return found, len(found) < len(there)


class _World:
    def __init__(self, most: int = 1 << 20) -> None:
        self.files, self.batches, self.results = _Files(), _Batches(), _Results(most)
        self.service = BatchService(cast("Any", None), cast("Any", self.files))
        self.service.batches = cast("Any", self.batches)
        self.service.results = cast("Any", self.results)

    def batch(self, status: Status, data: bytes, **more: Any) -> str:
        record = batch_pb2.StoredBatch(
            id=names.new_id(len(self.batches.kept), b"x" * 10),
            owner=_OWNER,
            status=status,
            input_file_id=self.files.put(data),
            window_s=600,
            **more,
        )
        self.batches.kept[record.id] = record
        return record.id

    async def numbers(self, batch_id: str, *, wait: bool = False) -> list[int]:
        groups = Reading(self.service, _OWNER, batch_id).rows(0, wait=wait)
        return [answered.number async for group in groups for answered in group]

    def estimating(self, *offers: Offer, fleet: object = None) -> Estimating:
        made: Any = (self.files, _Routes(), Bill(Catalog(offers)), fleet or _Fleet(), _Capacity())
        return Estimating(*made)


class _Routes:
    """Everything goes where its name says."""

    async def decide(self, _endpoint: str, head: Head, _body: bytes) -> tuple[Target, ...]:
        provider, _, model = head.model.partition("/")
        return (Target(provider, "main", model, listed=True),)


class _Fleet:
    """Pools of 10 slots; models whose name begins with "new" were never asked."""

    slots: ClassVar[dict[tuple[str, str], int]] = {("p", "main"): 10, ("q", "main"): 10}

    def pace(self, _provider: str, model: str) -> Pace:
        return UNKNOWN if model.startswith("new") else Pace(1000, 10, 100)

    def has_batches(self, target: Target) -> bool:
        return target.provider == "q"


class _Capacity:
    async def all(self) -> list[Standing]:
        return [
            Standing("p", "", "few", slots=2),
            Standing("p", "", "slow", rate=0.5),
            Standing("p", "", "short", tokens=10),
        ]


def result(number: int, size: int = 2) -> batch_pb2.LineResult:
    return batch_pb2.LineResult(
        number=number, custom_id=f"c{number}", status=200, json=b'"' + b"x" * (size - 2) + b'"'
    )


def lines(count: int) -> bytes:
    return b"".join(
        json.dumps({"custom_id": f"c{n}"}).encode() + b"\n" for n in range(1, 1 + count)
    )


# --- estimates ---


async def test_no_more_estimates_are_made_at_once_than_an_edge_bears() -> None:
    world = _World()
    body = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "sim/echo"}}
    wanted = batch_pb2.StoredBatch(
        input_file_id=world.files.put(json.dumps(body).encode()), endpoint=CHAT
    )
    estimating = world.estimating()
    world.files.held.clear()
    held = [asyncio.create_task(estimating.estimate(_OWNER, wanted)) for _ in range(2)]
    await asyncio.sleep(0)
    for _ in range(3):
        with pytest.raises(InferenceError) as caught:
            await estimating.estimate(_OWNER, wanted)
        assert (caught.value.reason, caught.value.retry_after) == ("queue_full", 10.0)
    world.files.held.set()
    assert [found.total for found in await asyncio.gather(*held)] == [1, 1]
    assert (await estimating.estimate(_OWNER, wanted)).total == 1


async def test_an_estimate_remembers_a_thousand_models_at_most() -> None:
    world = _World()
    asked = [
        {"custom_id": f"c{n}", "method": "POST", "url": CHAT, "body": {"model": f"sim/{n}"}}
        for n in range(1001)
    ]
    for count in (1000, 1001):
        data = "".join(json.dumps(line) + "\n" for line in asked[:count]).encode()
        wanted = batch_pb2.StoredBatch(
            input_file_id=world.files.put(data),
            endpoint=CHAT,
            options=batch_pb2.BatchOptions(mixed_models=True),
        )
        if count == 1000:
            assert (await world.estimating().estimate(_OWNER, wanted)).total == count
            continue
        with pytest.raises(InferenceError, match="1,000 models"):
            await world.estimating().estimate(_OWNER, wanted)


_SILENT: dict[str, Any] = {}
_LIMITED = {"max_tokens": 10}


@pytest.mark.parametrize(
    ("url", "bodies", "longest", "tokens"),
    [
        (CHAT, [_LIMITED], 0, 10),
        (CHAT, [{"max_completion_tokens": 10, "n": 3}], 0, 30),
        (CHAT, [_LIMITED, _SILENT], 100, 110),
        (CHAT, [{"n": 3}], 100, 300),
        (CHAT, [_LIMITED, _SILENT], 0, None),
        ("/v1/embeddings", [_SILENT], 0, 0),
        ("/v1/images/generations", [_SILENT], 100, None),
    ],
)
async def test_the_highest_cost_is_none_that_a_line_could_exceed(
    url: str, bodies: list[dict[str, Any]], longest: int, tokens: int | None
) -> None:
    prices = {"input_tokens": 1_000_000_000, "output_tokens": 2_000_000_000}
    offer = Offer("p", "m", "p/m", max_output=longest, rates=Rates(prices), source="a test")
    asked = [
        {"custom_id": f"c{n}", "method": "POST", "url": url, "body": {"model": "p/m", **body}}
        for n, body in enumerate(bodies)
    ]
    world = _World()
    data = "".join(json.dumps(line) + "\n" for line in asked).encode()
    wanted = batch_pb2.StoredBatch(input_file_id=world.files.put(data), endpoint=url)
    found = await world.estimating(offer).estimate(_OWNER, wanted)
    assert not found.errors
    assert found.low is not None
    assert found.output_tokens == tokens
    high = found.high.nano_usd - found.low.nano_usd if found.high is not None else None
    assert high == (None if tokens is None else tokens * 2_000)


@pytest.mark.parametrize(
    ("models", "body", "seconds"),
    [
        # 100 calls of 1 s and 10 tokens of 10 ms, 10 at a time.
        (["p/m"], {"max_tokens": 10}, 11),
        # An answer without a limit counts as 250 tokens.
        (["p/m"], {}, 35),
        # Models share a pool's slots; pools run beside each other.
        (["p/m", "p/n"], {"max_tokens": 10}, 22),
        (["p/m", "q/m"], {"max_tokens": 10}, 11),
        # What the provider allows: calls at a time, calls and tokens per second.
        (["p/few"], {"max_tokens": 10}, 55),
        (["p/slow"], {"max_tokens": 10}, 200),
        (["p/short"], {"max_tokens": 10}, 100),
        (["p/m", "p/new"], {"max_tokens": 10}, None),
        (["r/nobody"], {"max_tokens": 10}, None),
    ],
)
async def test_the_time_follows_from_paces_slots_and_what_providers_allow(
    models: list[str], body: dict[str, Any], seconds: int | None
) -> None:
    found = await _estimated(models, body, "live")
    assert found.seconds == seconds


@pytest.mark.parametrize(
    ("execution", "count", "low", "high"),
    [
        ("live", 100, 1, 1),
        ("native", 100, 0.5, 0.5),
        ("auto", 100, 0.5, 1),
        ("auto", 99, 1, 1),
    ],
)
async def test_what_is_handed_over_costs_half(
    execution: str, count: int, low: float, high: float
) -> None:
    prices = {"input_tokens": 0, "output_tokens": 2_000_000_000}
    rates = {"input_tokens": 1_000_000_000, "output_tokens": 0}
    for one, model in ((prices, "q/written"), (rates, "q/read")):
        offer = Offer("q", model[2:], model, max_output=100, rates=Rates(one), source="a test")
        found = await _estimated([model], {"max_tokens": 10}, execution, count, offer)
        assert found.low is not None
        assert found.high is not None
        if model == "q/written":
            assert found.high.nano_usd == high * count * 10 * 2_000
        else:
            assert found.low.nano_usd == low * found.input_tokens * 1_000
        assert (found.seconds is None) == (low < 1)


async def test_less_than_a_days_window_is_no_reason_to_hand_anything_over() -> None:
    found = await _estimated(["q/m"], {"max_tokens": 10}, "auto", window_s=82_800)
    assert found.seconds is not None


@pytest.mark.parametrize("end", ["\n", ""])
async def test_with_dedupe_what_repeats_costs_nothing(end: str) -> None:
    rates = {"input_tokens": 1_000_000_000, "output_tokens": 2_000_000_000}
    offer = Offer("p", "m", "p/m", rates=Rates(rates), source="a test")
    bodies: list[dict[str, Any]] = [_LIMITED, {"max_tokens": 7, "messages": []}]
    asked = [
        {"custom_id": f"c{n}", "method": "POST", "url": CHAT, "body": {"model": "p/m", **body}}
        for n, body in enumerate(bodies * 3)
    ]
    world = _World()
    data = ("\n".join(["", *map(json.dumps, asked)]) + end).encode()
    wanted = batch_pb2.StoredBatch(input_file_id=world.files.put(data), endpoint=CHAT)
    whole = await world.estimating(offer).estimate(_OWNER, wanted)
    wanted.options.dedupe = True
    once = await world.estimating(offer).estimate(_OWNER, wanted)
    assert (whole.total, whole.duplicates, whole.models) == (6, 4, {"p/m": 6})
    assert (once.total, once.duplicates, once.models) == (6, 4, {"p/m": 6})
    assert (whole.output_tokens, once.output_tokens) == (51, 17)
    assert whole.input_tokens == 3 * once.input_tokens
    for cost in ("low", "high"):
        assert getattr(whole, cost).nano_usd == 3 * getattr(once, cost).nano_usd


async def _estimated(
    models: list[str],
    body: dict[str, Any],
    execution: str,
    count: int = 100,
    *offers: Offer,
    window_s: int = 86_400,
) -> Estimate:
    asked = [
        {
            "custom_id": f"{model}{n}",
            "method": "POST",
            "url": CHAT,
            "body": {"model": model, **body},
        }
        for model in models
        for n in range(count)
    ]
    world = _World()
    wanted = batch_pb2.StoredBatch(
        input_file_id=world.files.put("".join(json.dumps(x) + "\n" for x in asked).encode()),
        endpoint=CHAT,
        window_s=window_s,
        options=batch_pb2.BatchOptions(mixed_models=True, execution=execution),
    )
    found = await world.estimating(*offers).estimate(_OWNER, wanted)
    assert not found.errors
    return found


# --- results ---


@pytest.mark.parametrize("data", [b"{\n", b"\xff\n", b"x" * 5_000_000])
async def test_a_batch_whose_input_was_never_valid_has_no_results(data: bytes) -> None:
    world = _World()
    failed = world.batch(states.FAILED, data)
    assert await world.numbers(failed) == []
    assert world.files.read_bytes == 0


async def test_the_input_is_read_no_further_than_its_rows_reach() -> None:
    world = _World()
    row = projection.row("batch_1", result(2))
    output = world.files.put(row)
    batch = world.batch(states.CANCELLED, lines(200_000), output_file_id=output)
    assert await world.numbers(batch) == [2]
    assert world.files.read_bytes < 1_000_000


async def test_large_results_are_read_a_few_at_a_time() -> None:
    world = _World(most=1000)
    progress = batch_pb2.BatchProgress(next_line=201, total=200)
    batch = world.batch(states.IN_PROGRESS, b"", progress=progress)
    world.results.kept = {n: result(n, 300) for n in range(1, 201)}
    world.results.kept[77] = result(77, 5000)
    assert await world.numbers(batch) == list(range(1, 201))


async def test_behind_large_results_many_are_read_at_a_time_again() -> None:
    world = _World(most=1000)
    progress = batch_pb2.BatchProgress(next_line=2001, total=2000)
    batch = world.batch(states.IN_PROGRESS, b"", progress=progress)
    world.results.kept = {n: result(n, 900 if n <= 10 else 2) for n in range(1, 2001)}
    assert await world.numbers(batch) == list(range(1, 2001))
    assert len(world.results.asked) < 50


async def test_rows_stay_readable_while_lines_that_were_left_are_queued_again() -> None:
    world = _World()
    progress = batch_pb2.BatchProgress(next_line=1, total=9, epoch=1)
    batch = world.batch(states.IN_PROGRESS, b"", progress=progress)
    world.results.kept = {n: result(n) for n in range(1, 9)}
    assert await world.numbers(batch) == list(range(1, 9))


async def test_while_a_line_is_waited_for_those_behind_it_are_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_LOOK_S", 0.001)
    world = _World()
    progress = batch_pb2.BatchProgress(next_line=101, total=100)
    batch = world.batch(states.IN_PROGRESS, b"", progress=progress)
    world.results.kept = {n: result(n) for n in range(1, 101) if n != 7}
    groups = Reading(world.service, _OWNER, batch).rows(0, wait=True)
    assert [answered.number for answered in await anext(groups)] == list(range(1, 7))
    some = world.results.some

    async def once_it_was_asked_often(
        batch_id: str, numbers: Sequence[int]
    ) -> tuple[dict[int, batch_pb2.LineResult], bool]:
        if len(world.results.asked) == 20:
            world.results.kept[7] = result(7)
        return await some(batch_id, numbers)

    monkeypatch.setattr(world.results, "some", once_it_was_asked_often)
    found = [answered.number for _ in range(2) for answered in await anext(groups)]
    assert found == list(range(7, 101))
    assert world.results.asked == [100, *[1] * 20, 93]
    await groups.aclose()


async def test_rows_that_are_there_come_together_and_large_ones_a_few_at_a_time() -> None:
    world = _World(most=8 << 20)
    progress = batch_pb2.BatchProgress(next_line=401, total=400)
    batch = world.batch(states.IN_PROGRESS, b"", progress=progress)
    world.results.kept = {n: result(n, 2 if n <= 300 else 40_000) for n in range(1, 401)}
    groups = Reading(world.service, _OWNER, batch).rows(0, wait=False)
    sizes = [len(group) async for group in groups]
    assert sizes == [301, *[2] * 49, 1]


# --- asked again ---


async def test_a_retry_asked_for_again_is_the_same_batch_whatever_became_of_it() -> None:
    world = _World()
    errors = world.files.put(b"")
    batch = world.batch(states.COMPLETED, lines(2), error_file_id=errors, in_progress_at=1)
    child = await world.service.retry(KEY, batch)
    assert child.retry_of == batch
    kept = world.batches.kept[child.id]
    kept.input_file_id = names.retry_file(child.id)  # as the broker does
    for status in (states.VALIDATING, states.IN_PROGRESS, states.COMPLETED, states.FAILED):
        kept.status = status
        assert (await world.service.retry(KEY, batch)).id == child.id


@pytest.mark.parametrize("status", [states.VALIDATING, states.COMPLETED])
async def test_a_batch_made_again_is_looked_for_until_it_is_over(
    status: Status,
) -> None:
    world = _World()
    wanted = batch_pb2.StoredBatch(input_file_id=world.files.put(lines(1)), window_s=600)
    made = await world.service.create(KEY, wanted, "a name")
    world.batches.kept[made.id].status = status
    assert (await world.service.create(KEY, wanted, "a name")).id == made.id
    assert world.batches.touched == ([made.id] if status == states.VALIDATING else [])


async def test_another_input_under_the_same_name_is_a_conflict() -> None:
    world = _World()
    wanted = batch_pb2.StoredBatch(input_file_id=world.files.put(lines(1)), window_s=600)
    await world.service.create(KEY, wanted, "a name")
    wanted.input_file_id = world.files.put(lines(2))
    with pytest.raises(InferenceError) as caught:
        await world.service.create(KEY, wanted, "a name")
    assert caught.value.reason == "idempotency_conflict"


@pytest.mark.parametrize("status", [states.CANCELLED, states.EXPIRED])
async def test_a_batch_that_ended_before_its_first_line_is_run_again_as_a_whole(
    status: Status,
) -> None:
    world = _World()
    batch = world.batch(status, lines(2))
    again = await world.service.retry(KEY, batch)
    assert (again.input_file_id, again.retry_of) == (
        world.batches.kept[batch].input_file_id,
        "",
    )
    grandchild = world.batch(status, lines(1), retry_of=batch)
    assert (await world.service.retry(KEY, grandchild)).retry_of == batch


# --- files ---


@pytest.mark.parametrize("left_s", [10, 599, 700])
async def test_a_file_has_to_outlive_the_window(left_s: int) -> None:
    world = _World()
    name = world.files.put(lines(1), expires_at=int(time.time()) + left_s)
    wanted = batch_pb2.StoredBatch(input_file_id=name, window_s=600)
    if left_s > 600:
        assert (await world.service.create(KEY, wanted)).input_file_id == name
        return
    with pytest.raises(InferenceError, match="expires before") as caught:
        await world.service.create(KEY, wanted)
    assert (caught.value.reason, caught.value.param) == ("invalid_request", "input_file_id")
