"""ControlService: what this edge is, which models it knows and what it is doing."""

from __future__ import annotations

from broker.config import Limits
from broker.translate.capacity import model_capacity
from broker.v1 import control_service_pb2 as pb
from broker.v1 import control_service_pb2_grpc as pb_grpc
from edge.capacity import Capacity
from edge.engine import Engine
from edge.meant import meant_for
from edge.rpc.calls import Calls, Context


class ControlService(pb_grpc.ControlServiceServicer):
    """See the proto."""

    def __init__(
        self, engine: Engine, capacity: Capacity, calls: Calls, limits: Limits, version: str
    ) -> None:
        self._engine = engine
        self._capacity = capacity
        self._calls = calls
        self._limits = limits
        self._version = version

    async def GetServerInfo(  # noqa: N802
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """Version and limits."""
        async with self._calls.call(context, request):
            return pb.GetServerInfoResponse(
                version=self._version,
                edge=self._engine.name,
                max_body_bytes=self._limits.max_body_bytes,
            )

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """Models of providers that are on."""
        async with self._calls.call(context, request):
            models = meant_for(self._engine.models(), request.operation)
            return pb.ListModelsResponse(
                models=[
                    pb.Model(id=model.id, provider=model.provider, operations=model.operations)
                    for model in models
                ]
            )

    async def GetLoad(  # noqa: N802
        self, request: pb.GetLoadRequest, context: Context
    ) -> pb.GetLoadResponse:
        """Gauges."""
        async with self._calls.call(context, request):
            return self._engine.load()

    async def GetCapacity(  # noqa: N802
        self, request: pb.GetCapacityRequest, context: Context
    ) -> pb.GetCapacityResponse:
        """How the places stand."""
        async with self._calls.call(context, request):
            known = await self._capacity.all()
            return pb.GetCapacityResponse(
                models=[
                    model_capacity(one) for one in known if request.provider in ("", one.provider)
                ]
            )
