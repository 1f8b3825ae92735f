"""How tags reach calls in the places where apps make them: queues, threads, frameworks."""
