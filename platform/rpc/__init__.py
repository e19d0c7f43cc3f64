"""TorchServe's gRPC services: beside its HTTP API, on the same registry and the same logic (extra `grpc`)."""
