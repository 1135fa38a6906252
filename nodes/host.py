"""Everything this pack asks of ComfyUI's internals, and the only file that does.

Works on ComfyUI 0.3.64 and later. Nothing is patched: a MODEL is cloned and given keyed wrappers.
"""

from __future__ import annotations

import uuid
from typing import Any

import comfy.model_management
import comfy.model_sampling
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..rival_core import inversion
from ..rival_core.chain import ModelCard
from ..rival_core.errors import RivalError
from ..rival_core.inversion import Inversion, Solver
from ..rival_core.sampling import sample_euler_partial
from ..rival_core.scaling import FlowScaling, Scaling
from ..rival_core.schedule import FlowTimesteps, LogLinearTimesteps, TableTimesteps, Timesteps

# The image UNets, by ComfyUI's class names, and the latent area they were trained at.
FAMILIES = {
    "SD15": 64**2,
    "SD20": 96**2,
    "SD21UnclipL": 96**2,
    "SD21UnclipH": 96**2,
    "SDXL": 128**2,
    "SDXLRefiner": 128**2,
    "SSD1B": 128**2,
    "Segmind_Vega": 128**2,
    "KOALA_700M": 128**2,
    "KOALA_1B": 128**2,
}
# Wrappers that skip model calls by watching how much the latent changed. The exemplar's call is
# of another latent: it must neither be skipped nor watched.
STEP_SKIPPERS = {"easycache"}
SCHEDULERS = comfy.samplers.SCHEDULER_NAMES
SAMPLERS = comfy.samplers.SAMPLER_NAMES
# Samplers that draw no noise can stop at the chain's terminal sigma; all others must reach 0.
NOISELESS = {
    *("euler", "euler_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0", "dpm_2", "lms", "dpm_fast"),
    *("dpm_adaptive", "dpmpp_2m", "dpmpp_2m_cfg_pp", "ipndm", "ipndm_v", "deis", "res_multistep"),
    *("res_multistep_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "ddim"),
    *("uni_pc", "uni_pc_bh2"),
}


# --- what a MODEL is -----------------------------------------------------------------------------


def model_card(model: ModelPatcher) -> ModelCard:
    """The model's family, latent format and self-attention layers; refuses other families."""
    family = type(model.model.model_config).__name__
    unet = model.get_model_object("diffusion_model")
    if family not in FAMILIES or not isinstance(unet, UNetModel):
        raise RivalError(
            f"{family} models are not supported yet: load an SD1.x, SD2 or SDXL checkpoint"
        )
    sampling = model.get_model_object("model_sampling")
    known = is_flow(model) or isinstance(sampling, comfy.model_sampling.EPS)
    if not known or isinstance(sampling, comfy.model_sampling.IMG_TO_IMG):
        kind = ", ".join(base.__name__ for base in type(sampling).__bases__)
        raise RivalError(
            f"{family} with the model sampling {kind} is not supported: remove the node that set it"
        )
    latent_format = type(model.get_model_object("latent_format")).__name__
    return ModelCard(family, latent_format, self_attention_layers(unet))


def self_attention_layers(unet: UNetModel) -> tuple:
    """Each self-attention's (block, depth in the block, width), named as its hooks name it."""
    groups = {
        "input": unet.input_blocks,
        "middle": [] if unet.middle_block is None else [unet.middle_block],
        "output": unet.output_blocks,
    }
    layers = []
    for name, blocks in groups.items():
        for i, block in enumerate(blocks):
            found = [m for m in block.modules() if isinstance(m, BasicTransformerBlock)]
            layers += [
                ((name, i), depth, m.attn1.to_q.in_features) for depth, m in enumerate(found)
            ]
    return tuple(layers)


def latent_channels(model: ModelPatcher) -> int:
    return model.get_model_object("latent_format").latent_channels


def is_flow(model: ModelPatcher) -> bool:
    """Whether the model was trained, or is sampled, as a rectified flow."""
    sampling = model.get_model_object("model_sampling")
    return isinstance(sampling, comfy.model_sampling.CONST) and isinstance(
        sampling, comfy.model_sampling.ModelSamplingDiscreteFlow
    )


def is_inpainting(model: ModelPatcher) -> bool:
    """Whether the UNet takes a mask and a masked image beside the latent (9 channels)."""
    return "masked_image" in model.model.concat_keys


def scaling_of(model: ModelPatcher) -> Scaling:
    sampling = model.get_model_object("model_sampling")
    if is_flow(model):
        return FlowScaling(float(sampling.sigma_max))
    return Scaling(float(sampling.sigma_max), float(sampling.sigma_data))


def timesteps_of(model: ModelPatcher) -> Timesteps:
    """The model's map between sigma and the 1000 training timesteps."""
    sampling = model.get_model_object("model_sampling")
    if is_flow(model):
        return FlowTimesteps(float(sampling.shift))
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


# --- running a MODEL -----------------------------------------------------------------------------


class InversionSampler(comfy.samplers.Sampler):
    """Runs the inversion where ComfyUI runs a sampler: model loaded, conditioning encoded."""

    def __init__(self, scaling: Scaling, solver: Solver):
        self.scaling, self.solver = scaling, solver
        self.result: Inversion | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_, **__):
        calls = self.solver.most_evaluations

        def model(x, sigma):
            comfy.model_management.throw_exception_if_processing_interrupted()
            return model_wrap(x, sigma, **extra_args)

        def report(state):
            done = state["i"] * calls + state["iteration"]
            callback(done, state["denoised"], state["x"], (len(sigmas) - 1) * calls)

        inverted = inversion.invert(
            model, latent_image.float(), sigmas.flip(0), self.scaling, self.solver, report
        )
        kept = [x.to(comfy.model_management.intermediate_device()) for x in inverted.latents]
        self.result = inverted._replace(latents=kept)
        return inverted.latents[-1]


class RescaledSampler(comfy.samplers.Sampler):
    """Another sampler, its result divided by `scale` before it leaves the model's latent space."""

    def __init__(self, sampler: comfy.samplers.Sampler, scale: float):
        self.sampler, self.scale = sampler, scale

    def sample(self, *args, **kwargs):
        return self.sampler.sample(*args, **kwargs) / self.scale


def invert(
    model: ModelPatcher,
    latent: Tensor,
    positive: Any,
    negative: Any,
    cfg: float,
    sigmas: Tensor,
    solver: Solver,
) -> tuple[Inversion, Tensor]:
    """The inversion of one image, and its end as the samples of a LATENT.

    sigmas: [S + 1], falling. Cost: up to S * solver.most_evaluations model calls, of twice the
    rows when cfg is not 1.
    """
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": positive, **({"negative": negative} if negative else {})})
    guider.set_cfg(cfg)
    sampler = InversionSampler(scaling_of(model), solver)
    steps = (len(sigmas) - 1) * solver.most_evaluations
    callback = latent_preview.prepare_callback(model, steps)
    end = guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, callback=callback)
    return sampler.result, end.to(comfy.model_management.intermediate_device())


def sampler(name: str) -> comfy.samplers.Sampler:
    return comfy.samplers.sampler_object(name)


def partial_noise_sampler(noise_at: Any, stochastic: Any, eta: float) -> comfy.samplers.Sampler:
    """Euler that draws fresh noise at a part of the schedule (rival_core.sampling)."""

    def function(model, x, sigmas, extra_args, callback, disable):
        return sample_euler_partial(
            model, x, sigmas, noise_at, stochastic, eta, callback, **extra_args
        )

    return comfy.samplers.KSAMPLER(function)


def sample(
    model: ModelPatcher,
    noise: Tensor,
    cfg: float,
    sampler: comfy.samplers.Sampler,
    sigmas: Tensor,
    scale: float,
    positive: Any,
    negative: Any,
    seed: int,
) -> Tensor:
    """ComfyUI's own sampling from `noise` on an empty latent; the result is divided by `scale`."""
    return comfy.sample.sample_custom(
        model,
        noise,
        cfg,
        RescaledSampler(sampler, scale),
        sigmas,
        positive,
        negative,
        torch.zeros_like(noise),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )


def from_model_space(model: ModelPatcher, latent: Tensor) -> Tensor:
    """A model-space latent as the samples of a LATENT."""
    return model.model.process_latent_out(latent)


def show_on_node(node_id: str, text: str) -> None:
    """Text under the node's widgets, for whoever watches; the history keeps what `ui` says."""
    from server import PromptServer  # only a running server has one

    if getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.send_progress_text(text, node_id)


# --- what a patched MODEL needs during a run -----------------------------------------------------


def set_wrappers(model: ModelPatcher, key: str, owner: Any) -> ModelPatcher:
    """A clone whose sampling goes through the owner's methods, in place of any under this key."""
    model = model.clone()
    for kind in (WrappersMP.OUTER_SAMPLE, WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH):
        model.remove_wrappers_with_key(kind, key)
        model.add_wrapper_with_key(kind, key, getattr(owner, kind))
    return model


def wrapper_owner(model: ModelPatcher, key: str) -> Any:
    """The owner of the wrappers under this key, or None."""
    wrappers = model.get_wrappers(WrappersMP.OUTER_SAMPLE, key)
    return wrappers[0].__self__ if wrappers else None


def row_roles(conds: dict[str, list[dict]]) -> dict[Any, str]:
    """Each conditioning entry's uuid, and whether its rows are "positive" or "negative".

    Where ComfyUI gave a negative entry a positive one's uuid (it does for areas), the entry is
    given one of its own: `conds` is this run's copy.
    """
    roles: dict[Any, str] = {}
    for name, entries in conds.items():
        role = "negative" if name == "negative" else "positive"
        for entry in entries:
            if roles.setdefault(entry["uuid"], role) != role:
                entry["uuid"] = uuid.uuid4()
                roles[entry["uuid"]] = role
    return roles


def encode_conditioning(model: Any, conditioning: dict[str, Any], x: Tensor) -> dict[str, list]:
    """Conditioning as the model's own inputs for a latent like x; `model` is a loaded BaseModel."""
    conds = {name: comfy.sampler_helpers.convert_cond(c) for name, c in conditioning.items()}
    return comfy.samplers.process_conds(model, x, conds, x.device)


def evaluate(
    model: Any, conds: list[list[dict]], x: Tensor, sigma: Tensor, model_options: dict
) -> list[Tensor]:
    """The denoised estimate of x [1, C, H, W] for each conditioning, rows batched by the host."""
    options = {k: v for k, v in model_options.items() if k != "context_handler"}
    wrappers = {
        kind: {key: found for key, found in keyed.items() if key not in STEP_SKIPPERS}
        for kind, keyed in options["transformer_options"].get("wrappers", {}).items()
    }
    options["transformer_options"] = {**options["transformer_options"], "wrappers": wrappers}
    return comfy.samplers.calc_cond_batch(model, conds, x, sigma, options)


def with_hooks(
    model_options: dict, attn1_patch: Any, attn1_replace: dict | None = None, **transformer_options
) -> dict:
    """The options with an attn1 patch after all others, replaces and more transformer options."""
    options = {**model_options["transformer_options"], **transformer_options}
    if attn1_patch is not None:
        patches = options.get("patches", {})
        chained = [*patches.get("attn1_patch", []), attn1_patch]
        options["patches"] = {**patches, "attn1_patch": chained}
    if attn1_replace:
        replaces = options.get("patches_replace", {})
        merged = {**replaces.get("attn1", {}), **attn1_replace}
        options["patches_replace"] = {**replaces, "attn1": merged}
    return {**model_options, "transformer_options": options}


def attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
    """The host's fast attention, as a transformer block would call it."""
    return optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )
