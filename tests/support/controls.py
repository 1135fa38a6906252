"""A tiny ControlNet and T2I-Adapter of ComfyUI's own classes, and what they add to a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import seeded
import tiny
import torch
from composing import model_of, remembered, run_node
from torch import Tensor

Residuals = dict[str, list]


@remembered
def control_net(seed: int = 5):
    """Shaped for the tiny SD1.5."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    config = tiny._unet_config((1, 1), num_heads=4, num_head_channels=-1)
    for unused in ("out_channels", "transformer_depth_output", "use_temporal_attention",
                   "use_temporal_resblock"):  # fmt: skip
        del config[unused]
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    network.eval().requires_grad_(False)
    seeded.fill(network, seed)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


@remembered
def t2i_adapter(seed: int = 6):
    """It adds to the last input block and to the middle one."""
    import comfy.controlnet
    import comfy.t2i_adapter.adapter

    network = comfy.t2i_adapter.adapter.Adapter(
        channels=[128, 128], nums_rb=1, cin=3 * 16**2, ksize=1, sk=True, use_conv=False, xl=True
    )
    network.eval().requires_grad_(False)
    seeded.fill(network, seed)
    return comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", torch.device("cpu"))


def hint(height: int = 8, width: int = 8, seed: int = 21) -> Tensor:
    """An IMAGE for a latent of that size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 8 * height, 8 * width, 3, generator=generator)


class Applied(NamedTuple):
    """One use of Apply ControlNet."""

    net: Callable[[], object]  # makes it, or gives the one made before
    image: Tensor
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0


def controlled(conds: dict[str, list], *applied: Applied) -> dict[str, list]:
    """The prompts after one or several Apply ControlNet in a row."""
    from nodes import ControlNetApplyAdvanced

    for one in applied:
        out = run_node(
            ControlNetApplyAdvanced, **conds, control_net=one.net(), image=one.image,
            strength=one.strength, start_percent=one.start, end_percent=one.end,
        )  # fmt: skip
        conds = dict(zip(("positive", "negative"), out))
    return conds


@torch.no_grad()
def network_residuals(net, z: Tensor, t: float, context: Tensor, image: Tensor) -> Residuals:
    """What the bare network says of rows z [N, C, H, W], scaled as the model sees them."""
    image = image.movedim(-1, 1)
    if hasattr(net, "t2i_model"):
        return {key: list(value) for key, value in net.t2i_model(image).items()}
    image = image.expand(len(z), -1, -1, -1)
    return net.control_model(x=z, hint=image, timesteps=z.new_full([len(z)], t), context=context)


def residuals(row, text: Tensor, *applied: Applied) -> Residuals:
    """What is added to one row of the tiny SD1.5 at its sigma, by all that act there."""
    sampling = model_of("sd15").get_model_object("model_sampling")
    t = float(sampling.timestep(torch.tensor([row.sigma])))
    z = row.x / (1 + row.sigma**2) ** 0.5
    total: Residuals = {"input": [], "middle": [], "output": []}
    for one in applied:
        first, last = (sampling.percent_to_sigma(percent) for percent in (one.start, one.end))
        if not first >= row.sigma >= last:
            continue
        for key, values in network_residuals(one.net(), z, t, text, one.image).items():
            scaled = [None if v is None else one.strength * v for v in values]
            total[key] = added(total[key], scaled)
    return total


def added(one: list, other: list) -> list:
    """Residuals of two networks; blocks take theirs from a list's end, but each list is whole."""
    if not one or not other:
        return one or other
    assert len(one) == len(other)
    return [a if b is None else b if a is None else a + b for a, b in zip(one, other)]
