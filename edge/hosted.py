"""Runs the hosted tool `image_generation` for models whose providers have none."""

from __future__ import annotations

from collections.abc import Sequence

from broker.config import Settings
from broker.errors import InferenceError
from broker.keys import KeyRecord
from broker.providers import REGISTRY, canonical
from broker.translate import hosted_images
from broker.translate.hosted_images import TYPE, ImageTool
from broker.v1 import generation_pb2
from edge.drawing import Drawing, Terms
from edge.seams import ExchangeLike, PartsLike


class HostedTools:
    """An engine that runs hosted tools around another one."""

    def __init__(self, engine: PartsLike, settings: Settings) -> None:
        self._engine = engine
        self._providers = settings.providers
        self._model = settings.tools.image_generation.model

    async def submit(
        self,
        request: generation_pb2.Request,
        key: KeyRecord,
        *,
        request_id: str,
        timeout_s: float,
        alias: str = "",
        provider_key: str | None = None,
        attachments: Sequence[bytes | memoryview] = (),
        accepted: bool = False,
    ) -> ExchangeLike:
        """Accept a request. Raises `InferenceError` when it is refused."""
        if hosted_images.place(request.generate) is None or await self._native(request):
            return await self._engine.submit(
                request,
                key,
                request_id=request_id,
                timeout_s=timeout_s,
                alias=alias,
                provider_key=provider_key,
                attachments=attachments,
                accepted=accepted,
            )
        tool = hosted_images.read_tool(request.generate)
        terms = Terms(self._engine, key, request_id, timeout_s, alias, provider_key)
        drawing = Drawing(terms, request, tool, self._model_for(request, tool))
        await drawing.begin()
        return drawing

    async def check_background(self, request: generation_pb2.Request) -> None:
        """Refuse what no worker could do alone. Raises `InferenceError`."""
        index = hosted_images.place(request.generate)
        if index is not None and not await self._native(request):
            message = (
                f"{request.generate.model} does not draw by itself, and the broker runs {TYPE} "
                "for it only while somebody waits: leave out background"
            )
            raise InferenceError("invalid_request", message, param=f"tools[{index}]")

    async def _native(self, request: generation_pb2.Request) -> bool:
        """Whether all that may answer it run the tool themselves."""
        targets = (await self._engine.decide(request)).targets
        return all(TYPE in self._hosted(target.provider) for target in targets)

    def _hosted(self, provider: str) -> frozenset[str]:
        found = self._providers.get(provider)
        kind = found.kind if found is not None else canonical(provider) or ""
        return REGISTRY[kind].hosted if kind in REGISTRY else frozenset()

    def _model_for(self, request: generation_pb2.Request, tool: ImageTool) -> str:
        if self._model is not None:
            return self._model
        if tool.model and "/" in tool.model:
            return tool.model
        message = (
            f"{request.generate.model} does not draw by itself, and nobody is named to do it: set "
            "tools.image_generation.model in the settings (MILLRACE_IMAGE_GENERATION_MODEL), or "
            "name a provider's model in the tool, such as 'openai/gpt-image-2'"
        )
        index = hosted_images.place(request.generate)
        raise InferenceError("unsupported_parameter", message, param=f"tools[{index}]")
