"""Training: sampler and loader, objective, optimizer, checkpoints, and the loop; start at `loop.fit`."""
