"""ConversationsService: what was said, item by item, for programs."""

from __future__ import annotations

from broker.translate.check_response import check_items
from broker.translate.metadata import read_metadata
from broker.translate.rpc_responses import conversation
from broker.v1 import responses_service_pb2 as pb
from broker.v1 import responses_service_pb2_grpc as pb_grpc
from edge.responses.conversations import Conversations
from edge.rpc.calls import Calls, Context


class ConversationsService(pb_grpc.ConversationsServiceServicer):
    """See the proto."""

    def __init__(self, conversations: Conversations, calls: Calls) -> None:
        self._conversations = conversations
        self._calls = calls

    async def CreateConversation(  # noqa: N802
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        """A new conversation."""
        async with self._calls.call(context, request) as call:
            metadata = read_metadata(request.metadata)
            check_items(request.messages)
            record = await self._conversations.create(call.key.owner, metadata, request.messages)
            return pb.CreateConversationResponse(conversation=conversation(record))

    async def GetConversation(  # noqa: N802
        self, request: pb.GetConversationRequest, context: Context
    ) -> pb.GetConversationResponse:
        """A conversation without its items."""
        async with self._calls.call(context, request) as call:
            record = await self._conversations.get(call.key.owner, request.conversation_id)
            return pb.GetConversationResponse(conversation=conversation(record))

    async def UpdateConversation(  # noqa: N802
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.UpdateConversationResponse:
        """Replace the metadata."""
        async with self._calls.call(context, request) as call:
            record = await self._conversations.change(
                call.key.owner, request.conversation_id, read_metadata(request.metadata)
            )
            return pb.UpdateConversationResponse(conversation=conversation(record))

    async def DeleteConversation(  # noqa: N802
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        """Forget a conversation."""
        async with self._calls.call(context, request) as call:
            await self._conversations.delete(call.key.owner, request.conversation_id)
            return pb.DeleteConversationResponse()

    async def ListConversationItems(  # noqa: N802
        self, request: pb.ListConversationItemsRequest, context: Context
    ) -> pb.ListConversationItemsResponse:
        """What was said in it."""
        async with self._calls.call(context, request) as call:
            record = await self._conversations.get(call.key.owner, request.conversation_id)
            return pb.ListConversationItemsResponse(messages=record.messages)

    async def AddConversationItems(  # noqa: N802
        self, request: pb.AddConversationItemsRequest, context: Context
    ) -> pb.AddConversationItemsResponse:
        """Add what was said elsewhere."""
        async with self._calls.call(context, request) as call:
            check_items(request.messages)
            added = await self._conversations.add(
                call.key.owner, request.conversation_id, request.messages
            )
            return pb.AddConversationItemsResponse(messages=added)

    async def GetConversationItem(  # noqa: N802
        self, request: pb.GetConversationItemRequest, context: Context
    ) -> pb.GetConversationItemResponse:
        """One item."""
        async with self._calls.call(context, request) as call:
            message = await self._conversations.item(
                call.key.owner, request.conversation_id, request.item_id
            )
            return pb.GetConversationItemResponse(message=message)

    async def DeleteConversationItem(  # noqa: N802
        self, request: pb.DeleteConversationItemRequest, context: Context
    ) -> pb.DeleteConversationItemResponse:
        """Take one item out."""
        async with self._calls.call(context, request) as call:
            record = await self._conversations.remove(
                call.key.owner, request.conversation_id, request.item_id
            )
            return pb.DeleteConversationItemResponse(conversation=conversation(record))
