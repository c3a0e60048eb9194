"""The v0 forms: `model@provider` with the platform's arguments, and the lists."""

from __future__ import annotations

from broker.bus.usage import usage_groups
from broker.v1 import record_pb2
from tests.system.stack import Stack, until


async def test_a_v0_chat_completion_takes_model_at_provider_and_the_platform_arguments(
    stack: Stack,
) -> None:
    body = {
        "model": "echo@sim",
        "messages": [{"role": "user", "content": "Hello"}],
        "signature": "python",
        "tags": "one, two",
        "drop_params": True,
        "use_custom_keys": False,
        "region": "eu-west-1",
        "log_query_body": False,
        "log_response_body": False,
    }
    async with stack.client() as client:
        endpoints = (await client.get("/v0/endpoints?provider=sim")).json()
        assert body["model"] in endpoints
        answer = await client.post("/v0/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "chat.completion"
        assert answer.headers["x-millrace-provider"] == "sim"
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"

    async def charges() -> list[record_pb2.Charge]:
        return [c async for group in usage_groups(stack.bus) for c in group.charges]

    (charge,) = await until(charges, "it is charged")
    assert list(charge.tags) == ["one", "two"]
    assert charge.signature == "python"
