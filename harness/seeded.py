"""Seeded weights for diffusion networks that nobody trained, so that they behave like ones.

Purely random weights predict noise unrelated to their input, and sampling then ends far from any
image. Here the prediction is a mix: one part copies the network's input (what the best denoiser
of white Gaussian data does), the other comes from the random blocks and their attention.
"""

from __future__ import annotations

import math
import zlib

import torch

ATTENTION_GAIN = 1.25  # of to_q and to_k each; much more makes the network chaotic
TEXT_GAIN = 0.5  # of cross-attention's output, so that guidance does not drown the rest
COPIED = 0.7  # share of the input in the prediction; the random part has the same weight


@torch.no_grad()
def fill(module: torch.nn.Module, seed: int) -> None:
    """Random weights; each depends only on the seed and its own name."""
    for name, weight in module.state_dict().items():
        name = name.replace(".scale", ".weight")  # hosts disagree on what a norm calls it
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2:
            offset = 1.0 if name.endswith(".weight") else 0.0  # norms, biases
            weight.copy_(offset + 0.1 * noise)
        else:
            weight.copy_(noise * _gain(name) / math.sqrt(weight[0].numel()))


def _gain(name: str) -> float:
    if ".to_q." in name or ".to_k." in name:
        return ATTENTION_GAIN
    return TEXT_GAIN if ".attn2.to_out." in name else 1.0


@torch.no_grad()
def normalize_output(layer: torch.nn.Module, deviation: float, wanted: float = 1.0) -> None:
    """Scale a last layer whose output has this deviation to the wanted one.

    Two digits only: another machine's rounding must not lead to other weights.
    """
    scale = float(f"{wanted / deviation:.1e}")
    for parameter in layer.parameters():
        parameter.mul_(scale)


@torch.no_grad()
def copy_input(unet: torch.nn.Module, share: float = COPIED) -> None:
    """Route the first input channels around the UNet's blocks, into its prediction.

    They ride as pairs (+x, -x) in channels of their own: silu(a) - silu(-a) = a, so the last
    activation leaves them alone, and the last GroupNorm scales each latent channel to unit power.
    The pairs take the outermost skip connection from the first convolution to the last block.
    """
    first, last = unet.input_blocks[0][0], unet.output_blocks[-1]
    norm, convolution = unet.out[0], unet.out[2]
    group = norm.num_channels // norm.num_groups
    channels = convolution.out_channels
    reserved = slice(0, channels * group)
    residual, skip = last[0].out_layers[3], last[0].skip_connection
    for layer in (first, residual, skip, *(block.proj_out for block in last[1:2])):
        layer.weight[reserved] = 0
        layer.bias[reserved] = 0
    norm.weight[reserved] = 1
    norm.bias[reserved] = 0
    convolution.weight[:, reserved] = 0
    from_skip = skip.in_channels - first.out_channels  # the skip connection's place in the cat
    for channel in range(channels):
        for place, sign in ((channel * group, 1.0), (channel * group + 1, -1.0)):
            first.weight[place, channel, 1, 1] = sign
            skip.weight[place, from_skip + place, 0, 0] = 1
            convolution.weight[channel, place, 1, 1] = sign * share * math.sqrt(2 / group)
