"""What is kept of responses: chains, background work, conversations."""
