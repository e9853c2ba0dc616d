"""From pairs of texts to an M3 checkpoint: data, batches, losses, loop."""
