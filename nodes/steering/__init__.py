"""A patched MODEL at work: what its calls record, lend, keep and say."""
