#!/bin/sh
# The gRPC API with grpcurl (https://github.com/fullstorydev/grpcurl): the server describes itself
# by reflection, so no .proto file is needed. Run it from the folder of `make run`.
set -eu
MILLRACE_GRPC=${MILLRACE_GRPC:-127.0.0.1:8001}
MILLRACE_API_KEY=${MILLRACE_API_KEY:-$(cat millrace-data/run/api_key)}

# The services, without a key.
grpcurl -plaintext "$MILLRACE_GRPC" list

# A streamed answer; -max-time is the call's deadline in seconds.
grpcurl -plaintext -max-time 60 -H "authorization: Bearer $MILLRACE_API_KEY" \
  -d '{"request": {"generate": {"model": "sim/hello", "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "Hello"}}]}]}}}' \
  "$MILLRACE_GRPC" broker.v1.InferenceService/InferStream

# What the edge and its workers are doing.
grpcurl -plaintext -H "authorization: Bearer $MILLRACE_API_KEY" \
  "$MILLRACE_GRPC" broker.v1.ControlService/GetLoad
