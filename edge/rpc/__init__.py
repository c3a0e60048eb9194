"""The public gRPC API: the same operations, keys, limits and errors as over HTTP."""
