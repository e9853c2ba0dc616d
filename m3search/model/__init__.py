"""The M3 model: one backbone, three heads, and the checkpoints they live in."""
