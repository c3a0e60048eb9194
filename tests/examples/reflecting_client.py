"""What grpcurl does, as far as examples/grpcurl.sh needs it: nothing is known but the address.

Stands in for grpcurl where it is not installed: everything about services and messages comes from
the server's reflection service.
"""

from __future__ import annotations

import argparse
import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-plaintext", action="store_true", required=True)
    parser.add_argument("-max-time", type=float, default=None)
    parser.add_argument("-H", action="append", default=[], dest="headers")
    parser.add_argument("-d", default="{}", dest="data")
    parser.add_argument("address")
    parser.add_argument("method")
    given = parser.parse_args()
    pairs = (header.partition(": ") for header in given.headers)
    metadata = tuple((name, value) for name, _, value in pairs)
    with grpc.insecure_channel(given.address) as channel:
        services = ProtoReflectionDescriptorDatabase(channel)
        if given.method == "list":
            show("\n".join(sorted(services.get_services())))
            return
        service, _, name = given.method.partition("/")
        method = DescriptorPool(services).FindServiceByName(service).methods_by_name[name]
        request = json_format.Parse(given.data, GetMessageClass(method.input_type)())
        # A unary answer is a stream of one on the wire.
        call: grpc.UnaryStreamMultiCallable[Message, Message] = channel.unary_stream(
            f"/{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        for response in call(request, metadata=metadata, timeout=given.max_time):
            show(json_format.MessageToJson(response))


def show(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
