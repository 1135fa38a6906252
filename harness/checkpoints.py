"""Small seeded checkpoints that ComfyUI's own loaders accept, for demos and tests.

    python harness/checkpoints.py --host ~/ComfyUI --family sd15 --out tiny.safetensors --seed 0

Nobody trained these. The UNet has Stable Diffusion 1.5's interface (320 channels, CLIP-L text of
width 768) in two levels; the lower one has attention in an input block, the middle and two output
blocks. Its weights are described in seeded.py. The text encoder is a full-size random CLIP-L. The
VAE has TAESD's shape with weights set by hand: a latent pixel is the mean colour of 8 x 8 pixels,
so that images stay recognisable. Needs torch and the host's requirements, so run it with their
Python.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import torch

UNET = {
    "image_size": 32, "use_spatial_transformer": True, "legacy": False,
    "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1, 1],
    "num_res_blocks": [1, 1], "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
    "use_linear_in_transformer": False, "context_dim": 768,
    "num_heads": 8, "num_head_channels": -1,
}
COPIED = 0.9  # more than seeded.py's, so that a guidance of 5 ends at latents near unit variance
VAE_SCALE = 0.18215  # between the VAE's own latents and those the model sees
LATENT_GAIN = 4.0  # colours in 0..1 become model-space latents of deviation about 1


def sd15(seed: int) -> dict[str, torch.Tensor]:
    """All tensors of the checkpoint, under the names that the family's files use."""
    parts = {
        "model.diffusion_model.": unet(seed),
        "first_stage_model.": vae(),
        "cond_stage_model.transformer.": clip(seed),
    }
    return {prefix + name: tensor.half().contiguous()
            for prefix, part in parts.items() for name, tensor in part.items()}


FAMILIES = {"sd15": sd15}


@torch.no_grad()
def unet(seed: int) -> dict[str, torch.Tensor]:
    """A UNet whose noise prediction for unit noise has a deviation near 1."""
    import seeded
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(**UNET).eval()
    seeded.fill(network, seed)
    seeded.copy_input(network, share=0.0)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)
    deviation = network(noise, torch.tensor([500.0]), context=text).std().item()
    seeded.normalize_output(network.out[2], deviation, math.sqrt(1 - COPIED**2))
    seeded.copy_input(network, COPIED)
    return network.state_dict()


def clip(seed: int) -> dict[str, torch.Tensor]:
    """CLIP-L with random weights: the final norm makes its tokens unit noise, as trained ones."""
    import comfy.clip_model
    import comfy.ops
    import seeded

    config_file = Path(comfy.clip_model.__file__).with_name("sd1_clip_config.json")
    config = json.loads(config_file.read_text(encoding="utf-8"))
    model = comfy.clip_model.CLIPTextModel(
        config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    seeded.fill(model, seed)
    return {name: tensor for name, tensor in model.state_dict().items()
            if name.startswith("text_model.")}


def vae() -> dict[str, torch.Tensor]:
    """TAESD's encoder and decoder as a linear mosaic: all residual branches are zero.

    Latents hold red, green, blue and their mean, centred on mid-grey. The decoder carries every
    colour as two channels, above and below mid-grey, because its activations clip at zero.
    """
    from comfy.taesd.taesd import TAESD

    model = {name: torch.zeros_like(tensor) for name, tensor in TAESD().state_dict().items()}
    model["vae_scale"].fill_(VAE_SCALE)
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

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(FAMILIES[arguments.family](arguments.seed), arguments.out)
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.0f} MB)")


if __name__ == "__main__":
    main()
