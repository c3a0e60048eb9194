"""What a batch's progress says of the models that it uses: allowed, under way, refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from broker.v1 import batch_service_pb2, batch_service_pb2_grpc
from broker.v1 import capacity_pb2 as pb
from broker.v1 import control_service_pb2 as control_pb2
from broker.v1 import control_service_pb2_grpc as control_grpc
from tests.system.batches import chat
from tests.system.rpc import bearer
from tests.system.shared import shared_stack
from tests.system.stack import KEY, Stack, until

OPEN = 4
# One model of which few calls are allowed at a time, one that is not limited, both for a while.
CAPPED = f"capped,tokens=2,ttft_ms=500,allow_open={OPEN}"
FREE = "free,tokens=2,ttft_ms=4000"
LINES = {CAPPED: 120, FREE: 10}


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with shared_stack(tmp_path_factory, workers=2) as stack:
        yield stack


async def begun(client: httpx.AsyncClient) -> str:
    """A batch of lines for both models."""
    models = [model for model, count in LINES.items() for _ in range(count)]
    lines = [chat(number, f"sim/{model}") for number, model in enumerate(models)]
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    sent = await client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)}
    )
    made = await client.post(
        "/v1/batches",
        json={
            "input_file_id": sent.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "mixed_models": True,
        },
    )
    assert made.status_code == 200, made.text
    return str(made.json()["id"])


async def test_progress_says_of_each_model_what_is_allowed_used_and_refused(stack: Stack) -> None:
    metadata = bearer(KEY)
    async with stack.client() as client, stack.channel() as channel:
        batch_id = await begun(client)

        found: dict[str, dict[str, Any]] = {}

        async def known() -> bool:
            reply = await client.get(f"/v1/batches/{batch_id}/progress")
            for one in reply.json()["capacity"]:
                limited = one["slots"] and one["rate_limited"]
                if one["running"] and (limited or one["model"] == FREE):
                    found[one["model"]] = one
            return len(found) == len(LINES)

        await until(known, "both models are known", 30)
        capped, free = found[CAPPED], found[FREE]
        assert (capped["provider"], capped["why"]) == ("sim", "found")
        # On its way from what two workers have slots for to what is allowed.
        assert 1 <= capped["slots"] < 2 * stack.slots
        assert 0 < capped["rate_limited_last_minute"] <= capped["rate_limited"]
        assert capped["rate_limited"] <= (await stack.sim_stats())["by_status"]["429"]
        assert f"{capped['rate_limited']:,} 429s" in capped["said"]
        assert (free["slots"], free["rate_limited"]) == (None, 0)
        assert free["running"] <= LINES[FREE]
        assert free["said"].startswith("no limit known, ")

        watching = batch_service_pb2_grpc.BatchServiceStub(channel).WatchBatch(
            batch_service_pb2.WatchBatchRequest(batch_id=batch_id), metadata=metadata, timeout=60
        )
        by_model: dict[str, pb.ModelCapacity] = {}
        async for told in watching:
            by_model = {one.model: one for one in told.capacity}
            if len(by_model) == len(LINES) and by_model[CAPPED].running:
                break
        watching.cancel()
        assert by_model[CAPPED].slots >= 1
        assert by_model[CAPPED].rate_limited >= capped["rate_limited"]
        assert not by_model[FREE].HasField("slots")
        assert by_model[FREE].HasField("running")

        control = control_grpc.ControlServiceStub(channel)
        load = await control.GetLoad(control_pb2.GetLoadRequest(), metadata=metadata)
        asked = control_pb2.GetCapacityRequest(provider="sim")
        answer = await control.GetCapacity(asked, metadata=metadata)
        (one,) = (one for one in answer.models if one.model == CAPPED)
        assert one.shares.keys() == {worker.worker for worker in load.workers}
        # A share that would hardly change stays as it is.
        assert 1 <= sum(share.slots for share in one.shares.values()) <= 1.5 * one.slots + 2
        asked = control_pb2.GetCapacityRequest(provider="openai")
        assert not (await control.GetCapacity(asked, metadata=metadata)).models
