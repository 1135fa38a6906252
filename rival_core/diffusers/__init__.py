"""The same algorithms on diffusers' networks, without a host. The nodes never import it."""
