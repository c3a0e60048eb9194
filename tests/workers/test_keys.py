"""Several keys of one provider: who gets which, and what becomes of one that failed."""

from __future__ import annotations

from collections import Counter

from broker.errors import InferenceError
from broker.v1 import job_pb2
from workers.keys import BUSY_S, LONGEST_S, REFUSED_S, Key, Keys, Turn

SECRETS = ("sk-one", "sk-two", "sk-three")
NOW = 1000.0


def chosen(
    keys: Keys, request: str = "r1", model: str = "m", avoid: tuple[str, ...] = (), now: float = NOW
) -> Key:
    key = keys.choose(request, model, avoid, now)
    assert key is not None
    return key


def fail(
    keys: Keys,
    key: Key,
    reason: str,
    *,
    wait: float | None = None,
    status: int = 0,
    model: str = "m",
    avoid: tuple[str, ...] = (),
    now: float = NOW,
) -> InferenceError:
    error = InferenceError(reason, "no", retry_after=wait, upstream_status=status)
    keys.failed(key, error, model, avoid, now)
    return error


def test_without_keys_there_is_none() -> None:
    assert Keys(()).choose("r1", "m", (), NOW) is None


def test_requests_spread_over_the_keys_and_each_stays_with_its_own() -> None:
    one, other = Keys(SECRETS), Keys(SECRETS)
    requests = [f"request-{n}" for n in range(300)]
    used = Counter(chosen(one, request).secret for request in requests)
    assert set(used) == set(SECRETS)
    assert min(used.values()) > 60
    for request in requests[:20]:
        assert len({chosen(keys, request).secret for keys in (one, other, one)}) == 1


def test_a_server_error_leaves_the_key_as_it_is() -> None:
    keys = Keys(SECRETS)
    first = chosen(keys)
    for reason in ("upstream_error", "upstream_overloaded", "invalid_request", "stalled"):
        error = fail(keys, first, reason)
        assert (error.key, error.other_keys) == ("", 0)
    assert chosen(keys) is first


def test_a_key_over_its_limit_rests_as_long_as_the_provider_says_and_for_that_model_alone() -> None:
    keys = Keys(SECRETS)
    first = chosen(keys)
    error = fail(keys, first, "upstream_rate_limit", wait=7)
    assert (error.key, error.other_keys) == (first.fingerprint, 2)
    assert error.retry_after == 7
    assert chosen(keys, now=NOW + 6.9) is not first
    assert chosen(keys, now=NOW + 7) is first
    fail(keys, first, "upstream_rate_limit", wait=7)
    assert chosen(keys, model="another", now=NOW + 1) is first


def test_no_provider_is_believed_for_ever_and_one_that_says_nothing_for_seconds() -> None:
    keys = Keys(SECRETS)
    first = chosen(keys)
    fail(keys, first, "upstream_rate_limit")
    assert chosen(keys) is not first
    assert chosen(keys, now=NOW + BUSY_S) is first
    fail(keys, first, "upstream_rate_limit", wait=1e9)
    assert chosen(keys, now=NOW + LONGEST_S) is first


def test_a_refused_key_is_left_alone_by_all_requests_for_a_while() -> None:
    for status, others_too in ((401, True), (402, True), (403, False)):
        keys = Keys(SECRETS)
        first = chosen(keys)
        error = fail(keys, first, "upstream_credentials", status=status)
        assert (error.key, error.other_keys) == (first.fingerprint, 2)
        assert chosen(keys) is not first
        assert (chosen(keys, model="another") is not first) == others_too
        assert chosen(keys, now=NOW + REFUSED_S) is first


def test_one_request_meets_every_key_once_and_is_told_when_there_is_no_other() -> None:
    keys = Keys(SECRETS)
    avoid: tuple[str, ...] = ()
    seen, others = [], []
    for _ in SECRETS:
        key = chosen(keys, avoid=avoid)
        error = fail(keys, key, "upstream_credentials", status=401, avoid=avoid)
        seen.append(key.secret)
        others.append(error.other_keys)
        avoid = (*avoid, error.key)
    assert sorted(seen) == sorted(SECRETS)
    assert others == [2, 1, 0]


def test_another_worker_that_knows_nothing_avoids_the_keys_that_the_job_names() -> None:
    first = chosen(Keys(SECRETS))
    second = chosen(Keys(SECRETS), avoid=(first.fingerprint,))
    assert second is not None
    assert second.secret != first.secret
    error = fail(Keys(SECRETS), second, "upstream_rate_limit", avoid=(first.fingerprint,))
    assert error.other_keys == 1


def test_when_all_rest_the_soonest_is_used_and_callers_are_told_when_that_is() -> None:
    keys = Keys(SECRETS[:2])
    first = chosen(keys)
    fail(keys, first, "upstream_rate_limit", wait=3)
    second = chosen(keys)
    error = fail(keys, second, "upstream_rate_limit", wait=40, avoid=(first.fingerprint,))
    assert (error.other_keys, error.retry_after) == (0, 3)
    assert chosen(keys, now=NOW + 1) is first
    assert chosen(keys, avoid=(first.fingerprint, second.fingerprint), now=NOW + 1) is first


def test_a_key_that_works_again_is_one_like_the_others_at_once() -> None:
    keys = Keys(SECRETS)
    first = chosen(keys)
    fail(keys, first, "upstream_credentials", status=401)
    fail(keys, first, "upstream_rate_limit", wait=60)
    keys.worked(first, "m")
    assert chosen(keys) is first


def test_one_key_given_twice_is_one_key() -> None:
    keys = Keys(("sk-one", "sk-one"))
    assert fail(keys, chosen(keys), "upstream_credentials", status=401).other_keys == 0


def turn(keys: Keys, callers: str = "", avoid: tuple[str, ...] = ()) -> Turn:
    job = job_pb2.Job(request_id="r1", avoid_keys=avoid)
    job.route.model = "m"
    return Turn(keys, job, callers, NOW)


def test_an_attempt_changes_its_key_while_there_is_another() -> None:
    keys = Keys(SECRETS)
    attempt = turn(keys)
    used = []
    for _ in SECRETS:
        assert attempt.key is not None
        used.append(attempt.key)
        limited = InferenceError("upstream_rate_limit", "no", retry_after=60)
        changed = attempt.another(attempt.key, limited, NOW)
    assert not changed
    assert {key.secret for key in used} == set(SECRETS)
    assert attempt.hidden(" ".join(SECRETS)) == "[hidden] [hidden] [hidden]"
    # The next request knows, too.
    assert chosen(keys, avoid=(used[0].fingerprint,)) is not used[0]


def test_a_call_that_comes_late_takes_the_key_that_another_changed_to() -> None:
    attempt = turn(Keys(SECRETS))
    first = attempt.key
    limited = InferenceError("upstream_rate_limit", "no")
    assert attempt.another(first, limited, NOW)
    second = attempt.key
    assert second is not first
    assert attempt.another(first, limited, NOW)
    assert attempt.key is second


def test_no_other_key_helps_against_other_errors_nor_for_a_key_of_the_callers_own() -> None:
    attempt = turn(Keys(SECRETS))
    assert not attempt.another(attempt.key, InferenceError("upstream_error", "no"), NOW)
    own = turn(Keys(SECRETS), callers="sk-own")
    assert own.secret == "sk-own"
    assert not own.another(own.key, InferenceError("upstream_rate_limit", "no"), NOW)
    assert own.hidden("sk-own sk-one") == "[hidden] [hidden]"
    own.failed(InferenceError("upstream_rate_limit", "no"), NOW)
    own.worked()
