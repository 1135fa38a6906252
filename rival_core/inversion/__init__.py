"""A photo to its noise: schedules, scales, and the solvers. Knows models as functions only."""
