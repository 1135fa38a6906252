"""What a MODEL is: its family, latent format, layers, noise levels."""

from __future__ import annotations

import inspect

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rival_core.chain.chain import ModelCard
from ...rival_core.errors import RivalError
from ...rival_core.inversion.scaling import FlowScaling, Scaling
from ...rival_core.inversion.schedule import (
    FlowTimesteps,
    LogLinearTimesteps,
    TableTimesteps,
    Timesteps,
)
from .families import FAMILIES, UNET, Port, served
from .previews import pixels_of


def model_card(model: ModelPatcher) -> ModelCard:
    """The model's family, latent format and self-attention layers; refuses other families."""
    family = type(model.model.model_config).__name__
    if family not in FAMILIES:
        raise RivalError(f"{family} models are not supported: load one of {served()}")
    network, port = model.get_model_object("diffusion_model"), FAMILIES[family].port
    where = port.find(network)
    if where is None:
        raise RivalError(
            f"another node put a {type(network).__name__} in the place of this {family} model's "
            f"{port.network}, and the layers in it cannot be found: remove that node"
        )
    sampling = model.get_model_object("model_sampling")
    known = is_flow(model) or isinstance(sampling, comfy.model_sampling.EPS)
    if not known or isinstance(sampling, comfy.model_sampling.IMG_TO_IMG):
        raise RivalError(
            f"{family} with the model sampling {kinds(sampling)} is not supported: remove the node "
            "that set it"
        )
    latent_format = type(model.get_model_object("latent_format")).__name__
    return ModelCard(family, latent_format, port.layers(network.get_submodule(where)))


def kinds(sampling: torch.nn.Module) -> str:
    """What a model sampling is made of, by ComfyUI's names."""
    return ", ".join(base.__name__ for base in type(sampling).__bases__)


def network_inside(model: ModelPatcher, network: torch.nn.Module) -> str:
    """Where in a module that another node put in its place the model's network is; "" if itself."""
    return port_of(model).find(network) or ""


def port_of(model: ModelPatcher) -> Port:
    """How the model attends; of a family that is not served, as UNets do."""
    return FAMILIES.get(type(model.model.model_config).__name__, FAMILIES["SD15"]).port


def is_dit(model: ModelPatcher) -> bool:
    """Whether the network is no UNet: one that was trained as a flow, for its own walk alone."""
    return is_dit_family(type(model.model.model_config).__name__)


def is_dit_family(family: str) -> bool:
    """Whether the models of a family that is served are such."""
    return family in FAMILIES and FAMILIES[family].port is not UNET


def latent_channels(model: ModelPatcher) -> int:
    return model.get_model_object("latent_format").latent_channels


def latent_dimensions(model: ModelPatcher) -> int:
    """Of a latent's places: 2, or 3 where they have time."""
    return model.get_model_object("latent_format").latent_dimensions


def pixels_to_a_side(model: ModelPatcher) -> int:
    """Of the image, for one of the latent's."""
    return pixels_of(model.get_model_object("latent_format"))


def as_its_own(model: ModelPatcher, latent: dict) -> dict:
    """A LATENT as the host's own samplers would take it for this model.

    An empty one gets the model's channels and, where the host knows it, its size; images get a
    time where the model's latents have one. Others, also wrong ones, stay as they are.
    """
    samples, fix = latent["samples"], comfy.sample.fix_empty_latent_channels
    if getattr(samples, "is_nested", False) or samples.ndim < 4 or not samples.numel():
        return latent
    known = [name for name in inspect.signature(fix).parameters if name.startswith("downscale_")]
    ratios = {name: latent[name] for name in known if latent.get(name) is not None}
    return {**latent, "samples": fix(model, samples, **ratios)}


def is_flow(model: ModelPatcher) -> bool:
    """Whether the model was trained, or is sampled, as a rectified flow."""
    sampling = model.get_model_object("model_sampling")
    # Newer hosts have flows from image to image, too, which begin at no noise.
    other = getattr(comfy.model_sampling, "IMG_TO_IMG_FLOW", ())
    return isinstance(sampling, comfy.model_sampling.CONST) and not isinstance(sampling, other)


def is_inpainting(model: ModelPatcher) -> bool:
    """Whether the UNet takes a mask and a masked image beside the latent (9 channels)."""
    return "masked_image" in model.model.concat_keys


def scaling_of(model: ModelPatcher) -> Scaling:
    """RivalError for a sampling whose latents lie between image and noise in another way."""
    sampling = model.get_model_object("model_sampling")
    if is_flow(model):
        unit = getattr(sampling, "noise_scale", 1.0)
        if unit != 1.0:
            raise RivalError(
                f"the model's noise is scaled by {unit:g}, which is not supported: set noise_scale "
                "to 1 in the node that set it"
            )
        return FlowScaling(float(sampling.sigma_max))
    if is_dit(model):
        raise RivalError(
            f"{type(model.model.model_config).__name__} with the model sampling {kinds(sampling)} "
            "is not supported, for only flows are: remove the node that set it"
        )
    return Scaling(float(sampling.sigma_max), float(sampling.sigma_data))


def timesteps_of(model: ModelPatcher) -> Timesteps:
    """The model's map between sigma and the 1000 training timesteps."""
    sampling = model.get_model_object("model_sampling")
    if is_flow(model):
        return FlowTimesteps(sampling.percent_to_sigma)
    if not hasattr(sampling, "num_timesteps"):
        return LogLinearTimesteps(float(sampling.sigma_min), float(sampling.sigma_max))
    if len(sampling.sigmas) != sampling.num_timesteps:
        # LCM keeps every 20th sigma; the schedule is laid on the table it was taken from.
        full = comfy.model_sampling.ModelSamplingDiscrete
        sampling = full(model.model.model_config, zsnr=sampling.zsnr)
    return TableTimesteps(sampling.sigmas.detach().float().cpu())


def scheduler_sigmas(model: ModelPatcher, schedule: str, steps: int) -> Tensor:
    return comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), schedule, steps
    )


def from_model_space(model: ModelPatcher, latent: Tensor) -> Tensor:
    """A model-space latent as the samples of a LATENT."""
    return model.model.process_latent_out(latent)


def to_model_space(model: ModelPatcher, samples: Tensor) -> Tensor:
    """The samples of a LATENT in the model's latent space; the opposite of from_model_space."""
    return model.model.process_latent_in(samples)
