"""The public gRPC server: inference, control, health and reflection on one port."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from broker.config import Settings
from broker.v1 import (
    control_service_pb2,
    control_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
)
from edge.auth import Authenticator
from edge.engine import Engine
from edge.rpc.calls import Context, key_of
from edge.rpc.inference import InferenceService

_SERVICES = (
    inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
    control_service_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name,
)
# Room for what surrounds a body of the largest size.
_ENVELOPE = 1 << 20


class ControlService(control_service_pb2_grpc.ControlServiceServicer):
    """See the proto."""

    def __init__(
        self, engine: Engine, auth: Authenticator, settings: Settings, version: str
    ) -> None:
        self._engine = engine
        self._auth = auth
        self._settings = settings
        self._version = version

    async def GetServerInfo(  # noqa: N802
        self, request: control_service_pb2.GetServerInfoRequest, context: Context
    ) -> control_service_pb2.GetServerInfoResponse:
        """Version and limits."""
        await key_of(context, self._auth)
        return control_service_pb2.GetServerInfoResponse(
            version=self._version,
            edge=self._engine.name,
            max_body_bytes=self._settings.limits.max_body_bytes,
        )

    async def ListModels(  # noqa: N802
        self, request: control_service_pb2.ListModelsRequest, context: Context
    ) -> control_service_pb2.ListModelsResponse:
        """Models of providers that are on."""
        await key_of(context, self._auth)
        return control_service_pb2.ListModelsResponse(
            models=[
                control_service_pb2.Model(id=m.id, provider=m.provider)
                for m in self._engine.models()
            ]
        )

    async def GetLoad(  # noqa: N802
        self, request: control_service_pb2.GetLoadRequest, context: Context
    ) -> control_service_pb2.GetLoadResponse:
        """Gauges."""
        await key_of(context, self._auth)
        return self._engine.load()


class RpcServer:
    """Starts and stops the server."""

    def __init__(
        self, engine: Engine, auth: Authenticator, settings: Settings, version: str
    ) -> None:
        limit = settings.limits.max_body_bytes + _ENVELOPE
        self._address = settings.grpc
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ]
        )
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceService(engine, auth, settings.limits.request_timeout_s), self._server
        )
        control_service_pb2_grpc.add_ControlServiceServicer_to_server(
            ControlService(engine, auth, settings, version), self._server
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        try:
            self._server.add_insecure_port(str(self._address))
        except RuntimeError as exc:
            raise OSError(
                f"cannot serve gRPC on {self._address}: is the port taken? set MILLRACE_GRPC"
            ) from exc
        await self._server.start()
        for name in ("", *_SERVICES):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Tell health checks that nothing new is welcome; calls that run go on."""
        await self._health.enter_graceful_shutdown()

    async def close(self) -> None:
        """Stop at once: the engine has drained before."""
        await self._server.stop(0.5)
