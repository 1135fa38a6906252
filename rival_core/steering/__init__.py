"""How generated rows read the photo: tokens, gates, masks, statistics. Knows no host."""
