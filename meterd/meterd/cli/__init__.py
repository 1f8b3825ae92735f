"""`meterctl`: the command line. A gRPC client and nothing else, so that a command is quick."""
