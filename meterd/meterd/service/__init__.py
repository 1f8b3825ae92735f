"""What the daemon serves over gRPC: one file a service, thin over the store and the rules."""
