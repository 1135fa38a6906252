"""The one error type that a user is meant to read."""


class RivalError(ValueError):
    """One sentence: the wrong value and the fix. The node that raises it puts its name first."""
