"""The same algorithms on a diffusers UNet, without a host. The nodes never import it."""
