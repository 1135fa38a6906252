"""Edits that need no chain, or no more of it than the photo: two walks as a pair, a pull."""
