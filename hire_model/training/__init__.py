"""Training: batches, losses, optimizer, checkpoints and the loop. Start at `loop.fit`."""
