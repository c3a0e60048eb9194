"""What headers of rate limits mean, in the spellings of those who send them."""

from __future__ import annotations

import pytest

from broker.limits import Quota
from workers.quotas import Quotas

# As recorded, but for the ids: what they say, and the quotas that come of it.
SPELLINGS: dict[str, tuple[dict[str, str], set[Quota]]] = {
    "limit, remaining and a duration": (
        {
            "x-ratelimit-limit-requests": "30000",
            "x-ratelimit-remaining-requests": "29999",
            "x-ratelimit-reset-requests": "2ms",
            "x-ratelimit-limit-tokens": "150000000",
            "x-ratelimit-remaining-tokens": "149999982",
            "x-ratelimit-reset-tokens": "0s",
        },
        {Quota("requests", 30000, 29999, 1.0), Quota("tokens", 150000000, 149999982, 0.0)},
    ),
    "a period in seconds makes resets milliseconds": (
        {
            "x-ratelimit-limit-requests": "120",
            "x-ratelimit-remaining-requests": "119",
            "x-ratelimit-renewalperiod-requests": "60",
            "x-ratelimit-reset-requests": "500",
            "x-ratelimit-abusepenalty-active": "False",
        },
        {Quota("requests", 120, 119, 60.0)},
    ),
    "a unit in the name": (
        {
            "x-ratelimit-limit-req-minute": "100",
            "x-ratelimit-remaining-req-minute": "97",
            "x-ratelimit-limit-tokens-minute": "100000",
            "x-ratelimit-remaining-tokens-minute": "98188",
            "x-ratelimit-tokens-query-cost": "166",
        },
        {Quota("requests", 100, 97, 60.0), Quota("tokens", 100000, 98188, 60.0)},
    ),
    "a minute's, with the time when all is there again": (
        {
            "date": "Wed, 19 Aug 2026 14:34:12 GMT",
            "anthropic-ratelimit-requests-limit": "10000",
            "anthropic-ratelimit-requests-remaining": "9999",
            "anthropic-ratelimit-requests-reset": "2026-08-19T14:34:13Z",
            "anthropic-ratelimit-input-tokens-limit": "5",
            "anthropic-ratelimit-tokens-limit": "12000000",
            "anthropic-ratelimit-tokens-remaining": "12000000",
            "anthropic-ratelimit-tokens-reset": "2026-08-19T14:34:13Z",
        },
        {Quota("requests", 10000, 9999, 60.0), Quota("tokens", 12000000, 12000000, 60.0)},
    ),
    "more remaining than the limit": (
        {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "19", "x-ratelimit-reset": "2"},
        {Quota("requests", 10, 10, 0.0)},
    ),
    "calls at a time": (
        {"x-ratelimit-limit-concurrent": "7", "x-ratelimit-remaining-concurrent": "0"},
        {Quota("concurrent", 7, 0, 0.0)},
    ),
    "nothing that can be read": (
        {
            "x-ratelimit-limit-requests": "many",
            "x-ratelimit-limit-tokens": "-5",
            "x-ratelimit-limit-audio-seconds-minute": "10",
            "x-ratelimit": "false",
        },
        set(),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_headers_are_quotas_whatever_their_spelling(name: str) -> None:
    headers, expected = SPELLINGS[name]
    quotas = Quotas()
    quotas.read(headers, 0.0)
    assert set(quotas.news()) == expected
    assert quotas.news() == ()  # told once


def told(limit: float, remaining: float, reset: str) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": f"{limit:g}",
        "x-ratelimit-remaining-requests": f"{remaining:g}",
        "x-ratelimit-reset-requests": reset,
    }


def window(*seen: tuple[float, float, str]) -> float:
    quotas = Quotas()
    for one in seen:
        quotas.read(told(*one), 0.0)
    (quota,) = quotas.news()
    return quota.window_s


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        # A bucket that refills all the time: its reset grows with what was used.
        ([(14400, 14399, "6s"), (14400, 14397, "18s")], 86_400),
        ([(500, 499, "120ms"), (500, 489, "1.32s")], 60),
        # A window that ends for all: its reset is never longer.
        ([(500, 499, "59.9s"), (500, 400, "31s"), (500, 300, "5s")], 60),
        ([(500, 400, "700ms"), (500, 10, "100ms"), (500, 490, "950ms")], 1),
        ([(500, 400, "8s")], 10),
    ],
)
def test_resets_tell_what_a_limit_is_for(
    seen: list[tuple[float, float, str]], expected: float
) -> None:
    assert window(*seen) == pytest.approx(expected, rel=0.01)


def test_where_nothing_remains_the_rest_ends_with_the_window() -> None:
    quotas = Quotas()
    assert quotas.read(told(500, 1, "40s"), 0.0) is None
    assert quotas.read(told(500, 0, "25s"), 0.0) == pytest.approx(25)


def test_where_it_refills_the_rest_ends_with_the_next_one() -> None:
    quotas = Quotas()
    quotas.read(told(60, 50, "10s"), 0.0)
    assert quotas.read(told(60, 0, "60s"), 0.0) == pytest.approx(1.0)


def test_of_a_short_window_a_part_is_waited_for_and_more_while_nothing_remains() -> None:
    quotas, now, rests = Quotas(), 0.0, []
    for _ in range(6):
        rest = quotas.read(told(500, 0, "1s"), now)
        assert rest is not None
        # Others that come meanwhile make it no longer.
        assert quotas.read(told(500, 0, "1s"), now + rest / 2) == pytest.approx(rest / 2)
        rests.append(rest)
        now += rest
    assert rests == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0])
    assert quotas.read(told(500, 9, "900ms"), now) is None
    assert quotas.read(told(500, 0, "1s"), now) == pytest.approx(0.05)
    assert quotas.read(told(500, 0, "20ms"), now + 1) == pytest.approx(0.02)


def test_no_place_left_among_calls_at_a_time_is_no_reason_to_rest() -> None:
    headers = {"x-ratelimit-limit-concurrent": "7", "x-ratelimit-remaining-concurrent": "0"}
    assert Quotas().read(headers, 0.0) is None


@pytest.mark.parametrize(
    ("reset", "expected"),
    [("6m0s", 360), ("1h2m", 3720), ("17.66s", 17.66), ("30", 30), ("1787154853", 0), ("soon", 0)],
)
def test_resets_are_durations_or_seconds_and_never_dates_taken_for_them(
    reset: str, expected: float
) -> None:
    rest = Quotas().read(told(10, 0, reset), 0.0)
    assert rest == pytest.approx(expected)
