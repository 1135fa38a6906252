"""What the nodes draw, with Pillow alone."""
