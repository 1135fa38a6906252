"""The flow model's autoencoder: TAESD's architecture with sixteen channels, in Wan's latent format.

Both ComfyUIs that are served load it with VAELoader. What the flow model sees, here `encode` and
`decode`, is of about unit variance in every channel. The host keeps latents in Wan's own scale,
which its model undoes by a mean and a deviation for each channel; the first and the last layer
learn that scale, so that the file needs nothing but TAESD's one number, `vae_scale`.
"""

from __future__ import annotations

import torch
from autoencoder import Autoencoder

CHANNELS = 16
SCALE = 0.25  # of latents where the decoder's soft limits act: few are near them then
# Wan 2.1's published statistics, which ComfyUI's latent format of that family holds.
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
DEVIATION = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
             3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


class WideAutoencoder(Autoencoder):
    def __init__(self):
        super().__init__(CHANNELS)
        self.vae_scale.fill_(SCALE)
        for name, numbers in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(numbers)[:, None, None], persistent=False)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """[n, 3, h, w] in 0..1 to [n, 16, h/8, w/8]."""
        return (super().encode(images).float() / SCALE - self.mean) / self.deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode(SCALE * (latents.float() * self.deviation + self.mean))


@torch.no_grad()
def start_from(model: WideAutoencoder, narrow: Autoencoder) -> None:
    """Take over all that fits from a trained one of fewer channels, which come first here."""
    ours, theirs = model.state_dict(), narrow.state_dict()
    model.load_state_dict({name: theirs[name] if theirs[name].shape == tensor.shape and tensor.ndim
                           else tensor for name, tensor in ours.items()})
    few = len(narrow.taesd_encoder[-1].bias)
    gain = SCALE * model.deviation.flatten()
    shift = SCALE * model.mean.flatten()
    out, old = model.taesd_encoder[-1], narrow.taesd_encoder[-1]
    out.weight[:few], out.bias[:few] = old.weight, old.bias
    out.weight *= gain[:, None, None, None]
    out.bias.copy_(out.bias * gain + shift)
    into, old = model.taesd_decoder[1], narrow.taesd_decoder[1]
    into.weight *= 0.1
    into.weight[:, :few] = old.weight
    into.weight /= gain[:, None, None]
    into.bias.copy_(old.bias - (into.weight.sum(dim=(2, 3)) * shift).sum(dim=1))
