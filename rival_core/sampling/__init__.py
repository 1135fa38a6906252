"""Sampling beside a chain: where it starts, fresh noise, holes, guidance."""
