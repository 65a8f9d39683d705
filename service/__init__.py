"""The gRPC service: bundles in, batched answers out."""
