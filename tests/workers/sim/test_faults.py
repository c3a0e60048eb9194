from __future__ import annotations

import json
from typing import Any

import pytest

from tests.workers.sim.raw import Client, Sim, chat_body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("status=429,retry_after=2", 429, "rate_limit_exceeded"),
        ("fault=status", 500, None),
        ("fault=status,status=503", 503, "overloaded"),
        ("status=529", 529, "overloaded"),
        ("status=400,code=context_length_exceeded", 400, "context_length_exceeded"),
    ],
)
def test_status_answers_with_an_openai_error(
    sim: Sim, model: str, status: int, code: str | None, stream: bool
) -> None:
    reply = sim.chat(model=model, stream=stream)
    assert (reply.status, reply.ended) == (status, "whole")
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert reply.json["error"]["code"] == code
    assert reply.headers.get("retry-after") == ("2" if "retry_after" in model else None)


def test_cut_closes_the_connection_after_that_many_tokens(sim: Sim) -> None:
    reply = sim.chat(model="tokens=60,fault=cut,after=40", stream=True)
    assert reply.ended == "eof"
    assert len(reply.streamed().split()) == 40
    assert reply.finish_reasons == []
    assert sim.stats()["faulted"] == 1


def test_cut_leaves_an_unstreamed_body_shorter_than_its_length(sim: Sim) -> None:
    reply = sim.chat(model="tokens=60,fault=cut")
    assert reply.ended == "eof"
    assert 0 < len(reply.body) < int(reply.headers["content-length"])


def test_the_fault_comes_in_the_middle_unless_told(sim: Sim) -> None:
    assert len(sim.chat(model="tokens=60,fault=cut", stream=True).streamed().split()) == 30


def test_reset_comes_before_the_headers_or_after_that_many_tokens(sim: Sim) -> None:
    reply = sim.chat(model="fault=reset")
    assert (reply.ended, reply.status, reply.reads) == ("reset", 0, 0)
    late = sim.chat(model="tokens=10,delay_ms=5,fault=reset,after=4", stream=True)
    assert late.ended == "reset"
    assert len(late.streamed().split()) == 4


def test_hang_never_answers(sim: Sim) -> None:
    reply = sim.chat(model="fault=hang", timeout=0.3)
    assert (reply.ended, reply.reads) == ("silence", 0)
    assert sim.until(lambda stats: stats["open"] == 0)["aborted"] == 1


@pytest.mark.parametrize("stream", [False, True])
def test_stall_falls_silent_in_the_middle(sim: Sim, stream: bool) -> None:
    reply = sim.chat(model="tokens=10,fault=stall,after=5", stream=stream, timeout=0.3)
    assert (reply.ended, reply.status) == ("silence", 200)
    if stream:
        assert len(reply.streamed().split()) == 5
    assert len(reply.body) > 0


def test_bad_json_breaks_one_event_and_the_stream_goes_on(sim: Sim) -> None:
    reply = sim.chat(model="tokens=10,fault=bad_json,after=3", stream=True)
    broken = []
    for place, data in enumerate(reply.datas[:-1]):
        try:
            json.loads(data)
        except json.JSONDecodeError:
            broken.append(place)
    assert broken == [4]  # the role and three tokens are before it
    assert reply.datas[-1] == "[DONE]"
    assert reply.ended == "whole"
    with pytest.raises(json.JSONDecodeError):
        _ = sim.chat(model="fault=bad_json").json


def test_no_done_and_no_finish_leave_out_just_that(sim: Sim) -> None:
    done = sim.chat(model="tokens=4,fault=no_done", stream=True)
    assert done.finish_reasons == ["stop"]
    assert "[DONE]" not in done.datas
    finish = sim.chat(model="tokens=4,fault=no_finish", stream=True)
    assert finish.finish_reasons == []
    assert finish.datas[-1] == "[DONE]"
    both = sim.chat(model="tokens=4,fault=no_finish+no_done", stream=True)
    assert both.finish_reasons == []
    assert (both.ended, both.streamed()) == ("whole", done.streamed())
    assert sim.chat(model="fault=no_finish").json["choices"][0]["finish_reason"] is None


def test_error_event_ends_the_stream(sim: Sim) -> None:
    reply = sim.chat(model="tokens=8,fault=error_event,after=3,code=overloaded", stream=True)
    *before, last = reply.datas
    assert len(before) == 4
    assert json.loads(last)["error"]["code"] == "overloaded"
    assert reply.ended == "whole"
    assert "error" in sim.chat(model="fault=error_event").json


def test_html_is_a_page_with_status_200(sim: Sim) -> None:
    reply = sim.chat(model="fault=html", stream=True)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html")
    assert b"<html>" in reply.body


def test_drip_and_crlf_change_the_bytes_and_not_the_events(sim: Sim) -> None:
    plain = sim.chat(model="tokens=5", stream=True)
    drip = sim.chat(model="tokens=5,fault=drip+crlf", stream=True)
    assert drip.streamed() == plain.streamed()
    assert b"\n\n" not in drip.body
    assert drip.body.count(b"\r\n\r\n") == len(drip.datas) == len(plain.datas)
    assert drip.reads > plain.reads + 10
    assert sim.chat(model="tokens=5,fault=drip").text == plain.streamed()


def test_drip_goes_on_to_whatever_fault_is_named_with_it(sim: Sim) -> None:
    reply = sim.chat(model="tokens=6,fault=drip+cut,after=3", stream=True)
    assert reply.ended == "eof"
    assert len(reply.streamed().split()) == 3


def test_first_n_heals_after_that_many_calls_of_the_same_key(sim: Sim) -> None:
    body: dict[str, Any] = {"sim": {"fault": "status", "status": 503, "first_n": 2, "key": "a"}}
    assert [sim.chat(**body).status for _ in range(4)] == [503, 503, 200, 200]
    body["sim"]["key"] = "b"
    assert sim.chat(**body).status == 503
    assert sim.stats()["by_status"] == {"503": 3, "200": 2}
    sim.request("POST", "/stats/reset")
    assert sim.chat(**body).status == 503


def test_max_open_refuses_what_is_above_it(sim: Sim) -> None:
    body = chat_body(model="max_open=2,ttft_ms=300")
    clients = [Client(sim.address) for _ in range(4)]
    for client in clients:
        client.send("POST", "/v1/chat/completions", body)
    replies = [client.reply() for client in clients]
    for client in clients:
        client.close()
    assert sorted(reply.status for reply in replies) == [200, 200, 429, 429]
    assert sim.chat(model="max_open=2,ttft_ms=300").status == 200


def test_what_is_allowed_at_a_time_is_for_all_calls_of_the_model_together(sim: Sim) -> None:
    body = chat_body(model="allow_open=2,ttft_ms=300,advertise,key=open")
    clients = [Client(sim.address) for _ in range(4)]
    for client in clients:
        client.send("POST", "/v1/chat/completions", body)
    replies = [client.reply() for client in clients]
    for client in clients:
        client.close()
    assert sorted(reply.status for reply in replies) == [200, 200, 429, 429]
    assert {reply.headers["x-ratelimit-limit-concurrent"] for reply in replies} == {"2"}
    assert sim.stats()["by_status"] == {"200": 2, "429": 2}
    assert sim.chat(model="allow_open=2,key=open").status == 200


def test_calls_in_any_second_are_allowed_and_told_of_in_headers_if_that_is_asked_for(
    sim: Sim,
) -> None:
    replies = [sim.chat(model="allow_rate=3,advertise,key=told") for _ in range(5)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429, 429]
    assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == list("21000")
    assert all(reply.headers["x-ratelimit-limit-requests"] == "3" for reply in replies)
    assert 0 < int(replies[-1].headers["retry-after-ms"]) <= 1000
    silent = [sim.chat(model="allow_rate=1,key=silent") for _ in range(2)]
    assert [reply.status for reply in silent] == [200, 429]
    assert not any("ratelimit" in name for reply in silent for name in reply.headers)
