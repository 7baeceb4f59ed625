"""A site's inference service: gRPC with TLS. ``inference.proto`` says what it answers."""
