"""The demo model's UNet: of Stable Diffusion 1.5's family, as small as its loaders still know it.

The class is the host's own (`comfy.ldm`), imported from the user's ComfyUI while training, so the
weights carry ComfyUI's names from the start.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "harness"))

# One level with one residual block, self- and cross-attention in its input block and its two
# output blocks. Loaders want a residual block on every level, and at latents of 16 x 16 a middle
# block would repeat what the level does, for a third more of weights and time.
CONFIG = {
    "image_size": 32, "use_spatial_transformer": True, "legacy": False,
    "in_channels": 4, "out_channels": 4, "model_channels": 320, "channel_mult": [1],
    "num_res_blocks": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1],
    "transformer_depth_middle": -2, "use_linear_in_transformer": False, "context_dim": 768,
    "num_heads": 8, "num_head_channels": -1,
}
PREFIX = "model.diffusion_model."  # in checkpoints


def use_host() -> None:
    """Put a ComfyUI on `sys.path`, set up for training; does nothing if one is there already."""
    if "comfy" in sys.modules:
        return
    import hosts

    found = hosts.find_hosts()
    if not found:
        raise SystemExit("training needs a ComfyUI: set COMFYUI_PATH to its folder")
    sys.path.insert(0, str(found[0].path))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    comfy.cli_args.args.use_pytorch_cross_attention = True


def make_unet(**changes) -> nn.Module:
    """Fresh weights; every residual branch and the prediction itself begin at zero."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**CONFIG | changes)
    start(unet)
    nn.init.zeros_(unet.out[-1].weight)
    nn.init.zeros_(unet.out[-1].bias)
    return unet


def start(model: nn.Module) -> None:
    """Fresh weights for layers of the host's; every residual branch begins at zero."""
    for module in model.modules():
        for kind in (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm):
            if isinstance(module, kind):
                kind.reset_parameters(module)  # the host's own leaves memory as it found it
        if hasattr(module, "out_layers"):
            nn.init.zeros_(module.out_layers[-1].weight)
        if hasattr(module, "proj_out"):
            nn.init.zeros_(module.proj_out.weight)


def frozen_unet(tensors: dict[str, torch.Tensor], **changes) -> nn.Module:
    """The trained UNet out of a checkpoint's tensors, not to be trained any more."""
    unet = make_unet(**changes)
    unet.load_state_dict({name.removeprefix(PREFIX): tensor.float()
                          for name, tensor in tensors.items() if name.startswith(PREFIX)})
    return unet.eval().requires_grad_(False)


@torch.no_grad()
def notice_captions(unet: nn.Module, embedded: torch.Tensor, directions: int = 32) -> None:
    """Add to every cross-attention's values what tells these captions apart, at unit variance.

    A seeded text encoder's tokens differ little from caption to caption beside what they have in
    common, and from random weights a UNet takes long to find it. embedded: [n, 77, 768].
    """
    summaries = embedded.float().mean(dim=1)
    center = summaries.mean(dim=0)
    deviations = (summaries - center) / len(summaries) ** 0.5
    directions = min(directions, len(deviations) - 1)
    _, spread, axes = torch.linalg.svd(deviations.cpu(), full_matrices=False)
    axes, spread = axes[:directions], spread[:directions, None]
    common = nn.functional.normalize(center.cpu(), dim=0)
    whitened = (axes - (axes @ common)[:, None] * common) / spread  # [directions, 768]
    generator = torch.Generator().manual_seed(0)
    for module in unet.modules():
        if hasattr(module, "attn2"):
            values = module.attn2.to_v.weight
            mix = torch.randn(len(values), directions, generator=generator) / directions**0.5
            values += (mix @ whitened).to(values)
