"""The check of an input: what is told of its mistakes, and the limits that `large` lifts."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from typing import Any

import pytest

from broker.batch import lines, states
from broker.batching.check import Check
from broker.v1 import batch_pb2

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"


def line(number: int, endpoint: str = CHAT, custom_id: str = "", **body: Any) -> bytes:
    asked = {
        "custom_id": custom_id or str(number),
        "method": "POST",
        "url": endpoint,
        "body": {"model": "m", **body},
    }
    return json.dumps(asked).encode() + b"\n"


def record(endpoint: str = CHAT, **options: Any) -> batch_pb2.StoredBatch:
    options.setdefault("large", False)
    return batch_pb2.StoredBatch(
        endpoint=endpoint,
        status=states.VALIDATING,
        options=batch_pb2.BatchOptions(**options),
    )


async def checked(wanted: batch_pb2.StoredBatch, *data: bytes, size: int = 0) -> Check:
    check = Check(wanted, size=size)
    try:
        for part in data:
            await check.feed(part)
        await check.finish()
    finally:
        check.close()
    return check


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("over", [0, 1, 1500])
async def test_that_there_are_more_mistakes_than_are_listed_is_told(twice: bool, over: int) -> None:
    """Of every kind: those of lines, and those that are found when all were read."""
    count = states.MAX_ERRORS + over
    wrong = [line(n, custom_id="one") if twice else b"{\n" for n in range(count + twice)]
    check = await checked(record(), b"".join(wrong))
    failed = record()
    assert states.fail(failed, check.mistakes, 1)
    listed = failed.errors[: states.MAX_ERRORS]
    assert [mistake.line for mistake in listed] == list(range(1 + twice, count - over + 1 + twice))
    told = [mistake.code for mistake in failed.errors[states.MAX_ERRORS :]]
    assert told == (["more_errors"] if over else [])
    if over:
        assert "1,000" in failed.errors[-1].message
        assert not failed.errors[-1].line


@pytest.mark.parametrize("large", [False, True])
async def test_a_file_is_as_large_as_the_api_takes_unless_it_is_said_to_be_large(
    large: bool,
) -> None:
    for size, codes in ((lines.MAX_INPUT, []), (lines.MAX_INPUT + 1, ["file_too_large"])):
        check = await checked(record(large=large), line(1), line(2), size=size)
        assert [mistake.code for mistake in check.mistakes] == ([] if large else codes)
        assert check.enough == (bool(codes) and not large)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("asked", "inputs"),
    [("a", 1), (["a", "b", "c"], 3), ([1, 2, 3, 4], 1), ([[1, 2], [3]], 2), ([], 0), (None, 0)],
)
async def test_inputs_of_embeddings_are_as_many_as_the_api_takes(
    monkeypatch: pytest.MonkeyPatch, asked: Any, inputs: int, large: bool
) -> None:
    monkeypatch.setattr(lines, "MAX_INPUTS", 2 * inputs)
    data = [line(n, EMBEDDINGS, input=asked) for n in (1, 2)]
    assert not (await checked(record(EMBEDDINGS, large=large), *data)).mistakes
    check = await checked(record(EMBEDDINGS, large=large), *data, line(3, EMBEDDINGS, input="x"))
    codes = [mistake.code for mistake in check.mistakes]
    assert codes == ([] if large else ["too_many_embedding_inputs"])


@pytest.mark.parametrize("large", [False, True])
async def test_a_file_has_as_many_lines_as_the_api_takes(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setattr(lines, "MAX_TASKS", 2)
    assert not (await checked(record(large=large), line(1), line(2))).mistakes
    check = await checked(record(large=large), line(1), line(2), line(3))
    assert [m.code for m in check.mistakes] == ([] if large else ["too_many_tasks"])


async def test_repeats_of_many_lines_are_counted_in_flat_memory() -> None:
    """What only counts keeps nothing for each line."""
    count = 20_000
    check = Check(record(large=True), count_repeats=True)
    # 100 lines a piece, of which 3 of 4 ask what another one asks.
    pieces = [
        b"".join(line(n, n=n // 4 if n % 4 else -n) for n in range(at, at + 100))
        for at in range(0, count, 100)
    ]
    expected = count - len({n // 4 if n % 4 else -n for n in range(count)})
    for piece in pieces:
        await check.feed(piece)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        await check.finish()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        check.close()
    assert check.duplicates == expected
    assert not check.firsts
    assert after - before < 100 << 10
    assert peak - before < 200 << 10


async def test_others_have_their_turns_while_repeats_are_put_in_order() -> None:
    check = Check(record(large=True, dedupe=True))
    count = 50_000
    for at in range(0, count, 100):
        await check.feed(b"".join(line(n, n=0) for n in range(at, at + 100)))
    longest, last = 0.0, time.perf_counter()

    async def watch() -> None:
        nonlocal longest, last
        while True:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    await check.finish()
    whole = time.perf_counter() - started
    watching.cancel()
    check.close()
    assert list(check.firsts) == [0, 0] + [1] * (count - 1)
    assert check.duplicates == count - 1
    # Whoever runs the batch has it in memory.
    assert check.firsts.itemsize == 4
    # All in one step would be nearly all of it.
    assert longest < whole / 4


async def test_a_line_that_nobody_would_take_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    check = await checked(record(), line(1), line(2, text="x" * 2000).rstrip(b"\n"))
    (mistake,) = check.mistakes
    assert (mistake.code, mistake.line) == ("line_too_large", 2)
    assert check.enough
