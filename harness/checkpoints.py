"""Small seeded files that ComfyUI's own loaders accept, for demos and tests.

    python harness/checkpoints.py --host ~/ComfyUI --family sd15 --out tiny.safetensors --seed 0

Nobody trained these. `sd15` and `sdxl` are checkpoints: a UNet with the family's interface in few
narrow levels, full-size random text encoders, and a VAE of TAESD's shape with weights set by hand:
a latent pixel is the mean colour of 8 x 8 pixels, so that images stay recognisable. `lora` and
`controlnet` fit `sd15`. Needs torch and the host's requirements, so run it with their Python.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import adapters
import text_encoders
import torch
import unets

LATENT_GAIN = 4.0  # colours in 0..1 become model-space latents of deviation about 1


def sd15(seed: int) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint, under the names that the family's files use."""
    text = {f"cond_stage_model.transformer.{name}": tensor
            for name, tensor in text_encoders.sd15(seed).items()}
    return {**_unet_and_vae("SD15", seed), **text}


def sdxl(seed: int) -> dict[str, torch.Tensor]:
    """The same for SDXL's names. About 2 GB, most of it CLIP-G."""
    return {**_unet_and_vae("SDXL", seed), **text_encoders.sdxl(seed)}


FAMILIES = {
    "sd15": sd15, "sdxl": sdxl, "lora": adapters.lora, "controlnet": adapters.controlnet,
}


def _unet_and_vae(family: str, seed: int) -> dict[str, torch.Tensor]:
    import comfy.latent_formats

    scale = getattr(comfy.latent_formats, family)().scale_factor
    parts = {"model.diffusion_model.": unets.seeded_unet(getattr(unets, family), seed),
             "first_stage_model.": vae(scale)}
    return {prefix + name: tensor for prefix, part in parts.items()
            for name, tensor in part.items()}


def vae(scale: float) -> dict[str, torch.Tensor]:
    """TAESD's encoder and decoder as a linear mosaic: all residual branches are zero.

    scale: from the VAE's own latents to those that the model sees. Latents hold red, green, blue
    and their mean, centred on mid-grey. The decoder carries every colour as two channels, above
    and below mid-grey, because its activations clip at zero.
    """
    from comfy.taesd.taesd import TAESD

    model = {name: torch.zeros_like(tensor) for name, tensor in TAESD().state_dict().items()}
    model["vae_scale"].fill_(scale)
    to_latent = LATENT_GAIN * torch.cat([torch.eye(3), torch.full((1, 3), 1 / 3)])  # [4, 3]
    for color in range(3):
        model["taesd_encoder.0.weight"][color, color, 1, 1] = 1
        for halving in (2, 6, 10):  # the mean of 2 x 2 pixels
            model[f"taesd_encoder.{halving}.weight"][color, color, 1:, 1:] = 0.25
    model["taesd_encoder.14.weight"][:, :3, 1, 1] = to_latent
    model["taesd_encoder.14.bias"] -= to_latent.sum(dim=1) / 2
    to_color = torch.linalg.pinv(to_latent)  # [3, 4]
    tent = torch.tensor([1.0, 2.0, 1.0]) / 4
    for half, sign in ((0, 1.0), (3, -1.0)):
        channels = slice(half, half + 3)
        model["taesd_decoder.1.weight"][channels, :, 1, 1] = sign * to_color
        for smoothing in (7, 12, 17):
            for channel in range(half, half + 3):
                model[f"taesd_decoder.{smoothing}.weight"][channel, channel] = tent.outer(tent)
        model["taesd_decoder.19.weight"][:, channels, 1, 1] = sign * torch.eye(3)
    model["taesd_decoder.19.bias"].fill_(0.5)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True, help="a ComfyUI folder")
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.host)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import safetensors.torch

    tensors = FAMILIES[arguments.family](arguments.seed)
    halves = {name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
              for name, tensor in tensors.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(halves, arguments.out)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
