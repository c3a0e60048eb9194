"""The public gRPC server: inference, control, health and reflection on one port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from broker.config import Limits, Settings
from broker.tasks import keep
from broker.telemetry import Telemetry
from broker.v1 import (
    batch_service_pb2,
    batch_service_pb2_grpc,
    control_service_pb2,
    control_service_pb2_grpc,
    file_service_pb2,
    file_service_pb2_grpc,
    inference_service_pb2,
    inference_service_pb2_grpc,
    responses_service_pb2,
    responses_service_pb2_grpc,
)
from edge.auth import Authenticator
from edge.engine import Engine
from edge.held import Held
from edge.kept import Kept
from edge.once import Once
from edge.openstreams import OpenStreams
from edge.responses.conversations import Conversations
from edge.rpc.asking import Asking
from edge.rpc.batches import BatchService
from edge.rpc.calls import Calls
from edge.rpc.control import ControlService
from edge.rpc.conversations import ConversationsService
from edge.rpc.files import FilesService
from edge.rpc.inference import InferenceService
from edge.rpc.report import Reporter
from edge.rpc.responses import ResponsesService

_INFERENCE = inference_service_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
_KEPT = responses_service_pb2.DESCRIPTOR.services_by_name
_RESPONSES = _KEPT["ResponsesService"].full_name
_CONVERSATIONS = _KEPT["ConversationsService"].full_name
_FILES = file_service_pb2.DESCRIPTOR.services_by_name["FileService"].full_name
_BATCHES = batch_service_pb2.DESCRIPTOR.services_by_name["BatchService"].full_name
_CONTROL = control_service_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name
_REFLECTED = (
    *(_INFERENCE, _RESPONSES, _CONVERSATIONS, _FILES, _BATCHES, _CONTROL),
    *(health.SERVICE_NAME, reflection.SERVICE_NAME),
)
# A client that has vanished without a word is noticed after the two together.
_PING_MS = 30_000
_PING_PATIENCE_MS = 10_000
# How often health is compared with whether requests would be served.
_HEALTH_S = 0.5
# For statuses of calls that are ended to get out.
_STOP_S = 1.0

_Status = health_pb2.HealthCheckResponse


class RpcServer:
    """Starts and stops the server. `telemetry` None counts for itself and logs no requests."""

    def __init__(
        self,
        engine: Engine,
        auth: Authenticator,
        settings: Settings,
        version: str,
        telemetry: Telemetry | None = None,
        *,
        once: Once,
        held: Held,
        kept: Kept,
        streams: OpenStreams,
    ) -> None:
        limits = settings.limits
        self._engine = engine
        self._address = settings.grpc
        self._calls = Calls(auth)
        self._health = health.aio.HealthServicer()
        self._following: asyncio.Task[None] | None = None
        self._server = server = grpc.aio.server(options=_options(limits))
        reporter = Reporter(telemetry or Telemetry.silent("edge"))
        tolerant: Any = _Tolerant(server)
        inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(
            InferenceService(
                engine, Asking(engine, once, held, reporter), self._calls, limits, streams
            ),
            tolerant,
        )
        control_service_pb2_grpc.add_ControlServiceServicer_to_server(
            ControlService(engine, kept.capacity, self._calls, limits, version), tolerant
        )
        responses_service_pb2_grpc.add_ResponsesServiceServicer_to_server(
            ResponsesService(
                kept.responses,
                Asking(kept.responses.tools, once, held, reporter),
                self._calls,
                limits,
                streams,
            ),
            tolerant,
        )
        responses_service_pb2_grpc.add_ConversationsServiceServicer_to_server(
            ConversationsService(Conversations(kept.responses.stored), self._calls), tolerant
        )
        file_service_pb2_grpc.add_FileServiceServicer_to_server(
            FilesService(kept.files, self._calls, limits), tolerant
        )
        batch_service_pb2_grpc.add_BatchServiceServicer_to_server(
            BatchService(kept, self._calls, streams, limits.slow_reader_s), tolerant
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(_REFLECTED, server)

    async def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        try:
            self._server.add_insecure_port(str(self._address))
        except RuntimeError as exc:
            await self._server.stop(None)  # else it complains when it is collected
            raise OSError(
                f"cannot serve gRPC on {self._address}: is the port taken? set MILLRACE_GRPC"
            ) from exc
        await self._health.set(_CONTROL, _Status.SERVING)
        await self._show_health(ready=self._engine.ready())
        await self._server.start()
        self._following = keep(self._follow_health, "health")

    async def drain(self) -> None:
        """Tell health checks that nothing new is welcome; calls that run go on."""
        await self._health.enter_graceful_shutdown()

    async def close(self) -> None:
        """Stop at once: the engine has drained before."""
        if self._following is not None:
            self._following.cancel()
        self._calls.close()
        await self._server.stop(_STOP_S)

    async def _follow_health(self) -> None:
        """Inference is healthy while requests would be served, as `/readyz` says over HTTP."""
        shown = self._engine.ready()
        while True:
            await asyncio.sleep(_HEALTH_S)
            ready = self._engine.ready()
            if ready != shown:
                await self._show_health(ready=ready)
                shown = ready

    async def _show_health(self, *, ready: bool) -> None:
        status = _Status.SERVING if ready else _Status.NOT_SERVING
        for name in ("", _INFERENCE, _RESPONSES):
            await self._health.set(name, status)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.http2.ping_timeout_ms", _PING_PATIENCE_MS),
        # Programs ping often, also between calls, to keep connections through proxies.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]


class _Tolerant:
    """Registers services so that a message which cannot be read reaches its handler, as None.

    By itself gRPC calls it an unknown error of ours and logs a traceback.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code registers everything both ways; the other one is used."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Register a service's methods by name."""
        tolerant = {
            name: handler._replace(request_deserializer=_or_none(handler.request_deserializer))
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, tolerant)
        self._server.add_generic_rpc_handlers((generic,))


def _or_none(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return None

    return read
