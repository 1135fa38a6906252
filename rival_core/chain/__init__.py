"""The chain that an inversion leaves: one value, its file, and what there is to say of it."""
