"""A reliability campaign: small in the test command, long by hand (`python tests/campaign`).

Each kind is a module with `run(count, seed)`, which returns how often which outcome came, and
under "faults" a line for everything that must not happen, with what it takes to see it again.
"""
