"""Which pictures of a batch to keep: distances between pictures, and words that choose."""
