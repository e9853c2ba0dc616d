"""The stores behind an index: arrays and documents in, hits out; nothing here knows a model."""
