"""Training: batches, losses, optimizer, checkpoints and the loop. Start with `loop.fit`."""
