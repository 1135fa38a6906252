"""TAESD's architecture, under the parameter names that ComfyUI's loaders know.

Images are RGB in 0..1. The encoder makes one latent pixel of 8 x 8 image pixels, four channels of
about unit variance: exactly what the diffusion model sees. ComfyUI's wrapper divides the encoder's
output by `vae_scale` and its SD1.5 model multiplies by 0.18215, so `vae_scale` is that number.
"""

from __future__ import annotations

import torch
from torch import nn

LATENT_CHANNELS = 4
FACTOR = 8  # image pixels per latent pixel, each way
MODEL_SCALE = 0.18215
WIDTH = 64


class Clamp(nn.Module):
    """Soft limits at +-3, so that no stray latent saturates the decoder."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return 3 * torch.tanh(latent / 3)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(_conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(),
                                  _conv(WIDTH, WIDTH))
        nn.init.zeros_(self.conv[-1].bias)
        self.conv[-1].weight.data.mul_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x) + x)


class Autoencoder(nn.Module):
    def __init__(self, channels: int = LATENT_CHANNELS):
        super().__init__()
        halving = [layer for _ in range(3)
                   for layer in (_conv(WIDTH, WIDTH, stride=2, bias=False),
                                 Residual(), Residual(), Residual())]
        doubling = [layer for _ in range(3)
                    for layer in (Residual(), Residual(), Residual(), nn.Upsample(scale_factor=2),
                                  _conv(WIDTH, WIDTH, bias=False))]
        self.taesd_encoder = nn.Sequential(
            _conv(3, WIDTH), Residual(), *halving, _conv(WIDTH, channels))
        self.taesd_decoder = nn.Sequential(
            Clamp(), _conv(channels, WIDTH), nn.ReLU(), *doubling, Residual(),
            _conv(WIDTH, 3))
        nn.init.constant_(self.taesd_decoder[-1].bias, 0.5)
        self.register_buffer("vae_scale", torch.tensor(MODEL_SCALE))
        self.register_buffer("vae_shift", torch.tensor(0.0))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return self.taesd_encoder(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.taesd_decoder(latents)


def _conv(channels_in: int, channels_out: int, **options) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, 3, padding=1, **options)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


@torch.no_grad()
def start_as_mosaic(model: Autoencoder, gain: float = 4.0) -> None:
    """A start from which training is quick: a latent pixel is the mean colour of its image pixels.

    Residual branches begin silent; three channels carry the colours through the encoder, six
    (above and below mid-grey, because activations clip at zero) through the decoder. All other
    channels keep their random weights, for training to make use of.
    """
    for module in model.modules():
        if isinstance(module, Residual):
            module.conv[-1].weight.zero_()
    encoder, decoder = model.taesd_encoder, model.taesd_decoder
    to_latent = gain * torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3)])  # [4, 3]
    to_color = torch.linalg.pinv(to_latent)  # [3, 4]
    for layer in (encoder[0], encoder[2], encoder[6], encoder[10]):
        layer.weight[:3] = 0
    encoder[0].bias.zero_()
    encoder[14].weight.mul_(0.1)
    encoder[14].weight[:, :3] = 0
    for color in range(3):
        encoder[0].weight[color, color, 1, 1] = 1
        for halving in (2, 6, 10):  # the mean of 2 x 2 pixels
            encoder[halving].weight[color, color, 1:, 1:] = 0.25
    encoder[14].weight[:, :3, 1, 1] = to_latent
    encoder[14].bias.copy_(-to_latent.sum(dim=1) / 2)
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4
    decoder[1].weight[:6] = 0
    decoder[1].bias[:6] = 0
    decoder[19].weight.mul_(0.1)
    for half, sign in ((0, 1.0), (3, -1.0)):
        channels = slice(half, half + 3)
        decoder[1].weight[channels, :, 1, 1] = sign * to_color
        decoder[19].weight[:, channels] = 0
        decoder[19].weight[:, channels, 1, 1] = sign * torch.eye(3)
    for smoothing in (7, 12, 17):
        decoder[smoothing].weight[:6] = 0
        for channel in range(6):
            decoder[smoothing].weight[channel, channel] = tent.outer(tent)
