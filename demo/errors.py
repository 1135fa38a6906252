"""The demo's one error type."""


class DemoError(RuntimeError):
    """One sentence for the user: what is wrong, and the fix."""
