"""RIVAL Patch Model: a MODEL whose sampling is steered by an exemplar."""

from __future__ import annotations

from comfy_api.latest import io

from ..rival_core.chain.features import FEATURES
from ..rival_core.steering.exemplar import KEYS, LAYERS, Exemplar, choose_layers
from ..rival_core.steering.gates import Gates
from ..rival_core.steering.positions import POSITIONS
from . import checks, host
from .schema import RivalChain, advanced, named, notify, output, schema
from .steering.run import align
from .values import checked

NODE = "RIVAL Patch Model"


def fraction(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


@checked()
class RivalPatchModel(io.ComfyNode):
    """Cross-image self-attention and noise normalisation on any sampler (RIVAL section 3.2)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["variation", "photo", "similar", "clone", "reference", "reference only", "style",
             "style transfer", "image prompt", "ipadapter", "ip adapter", "attention injection"],
            node_id="RivalPatchModel",
            display_name=NODE,
            description=(
                "Steers sampling towards the chain's photo: self-attention reads the photo, and "
                "the predicted noise takes its colour statistics. Works with any sampler; the "
                "model before this node stays untouched. Costs one model row more at each step, "
                "whatever the batch size. Two in a row mix two photos."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that made the chain."),
                RivalChain.Input("chain", tooltip="The photo, from RIVAL Invert."),
                fraction(
                    "inject_start",
                    0.0,
                    "Where in the schedule (0 = pure noise, 1 = finished) the photo starts to be "
                    "read. Later leaves the layout freer: 0.04 for style transfer, 0.1 for "
                    "editing.",
                ),
                fraction(
                    "replace_end",
                    0.4,
                    "Until here the new image reads only the photo, after it the photo and itself. "
                    "Higher is closer to the photo's content.",
                ),
                fraction(
                    "inject_end",
                    1.0,
                    "Where the photo stops being read. Lower leaves fine detail to the prompt.",
                ),
                fraction(
                    "normalize_end",
                    0.4,
                    "Until here the new image takes the photo's colours and contrast. Higher is "
                    "closer in colour: 0.6 with ControlNet.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of all that: 0 is the plain model exactly, 1 is RIVAL "
                    "exactly. Between them, attention costs one pass more.",
                ),
                io.Combo.Input(
                    "layers",
                    options=list(LAYERS),
                    default="all",
                    tooltip="Which self-attention layers read the photo. decoder: the way up "
                    "only, a looser likeness. coarse: the deepest level, for objects and their "
                    "arrangement. fine: the others, for texture and colour.",
                ),
                io.Combo.Input(
                    "features",
                    options=list(FEATURES),
                    default="live",
                    tooltip="live: the photo's features are computed beside each step, one model "
                    "row more. cached: the first run keeps them with the chain, and later runs at "
                    "its noise levels pay no row; 1.2 GB for SD1.5 at 512 px and 50 steps, in half "
                    "precision. cached_int8: half of that, a little less exact.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the new image the photo acts (1), of any size; soft edges "
                    "count. Costs one attention pass more.",
                ),
                io.Mask.Input(
                    "exemplar_mask",
                    optional=True,
                    tooltip="Which part of the photo is read, in the photo's own frame: leave its "
                    "background out, for instance.",
                ),
                advanced(
                    io.Combo.Input(
                        "exemplar_keys",
                        options=list(KEYS),
                        default="all",
                        optional=True,
                        tooltip="How much of the photo is read beside the image's own tokens, "
                        "where there are most. all is RIVAL. quarter: every second row and "
                        "column there, for faster steps after replace_end and a somewhat looser "
                        "likeness.",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "positions",
                        options=list(POSITIONS),
                        default="beside",
                        optional=True,
                        tooltip="Where the photo lies for a model whose attention has positions "
                        "(Flux, Z-Image, Qwen-Image, Wan, ...). beside: right of the new image, so "
                        "that its style comes without its layout. shuffled: its pieces in another "
                        "order, the loosest. same: where they were, which brings the layout along; "
                        "for edits, with start inverted.",
                    )
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, steered. Any sampler takes it.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        chain,
        inject_start,
        replace_end,
        inject_end,
        normalize_end,
        strength,
        layers,
        features,
        mask=None,
        exemplar_mask=None,
        exemplar_keys="all",
        positions="beside",
    ) -> io.NodeOutput:
        with named(NODE):
            checks.same_model(chain, model)
            gates = Gates(inject_start, replace_end, inject_end, normalize_end)
            exemplar = Exemplar(chain, gates, strength, choose_layers(chain.model, layers),
                                checks.one_mask("exemplar_mask", exemplar_mask),
                                checks.one_mask("mask", mask, may_be_empty=True), features,
                                exemplar_keys, positions)
            notices = notify(NODE, cls.notices(model, exemplar))
            return output(align(model, exemplar), text=notices, **cls.timeline(model, chain))

    @classmethod
    def timeline(cls, model, chain) -> dict[str, list]:
        """The chain's steps from noise to image, and how gates compare them."""
        timesteps = host.timesteps_of(model)
        steps = [timesteps.t(sigma) for sigma in chain.sigmas.flip(0)[:-1].tolist()]
        return {"chain_timesteps": steps, "chain_slack": [timesteps.slack]}

    @classmethod
    def notices(cls, model, exemplar) -> list[str]:
        notices = checks.same_weights(exemplar.chain, model)
        kept = exemplar.chain.features.kept_as
        if kept not in (None, exemplar.features):
            notices.append(
                f"the chain keeps {kept!r} features, which are not read where features is "
                f"{exemplar.features!r}"
            )
        if exemplar.positions != "beside" and not host.port_of(model).has_positions:
            notices.append(
                f"positions is {exemplar.positions!r}, and this model's attention has none that "
                "could be moved: it changes nothing"
            )
        if exemplar.mask is not None and not exemplar.mask.any():
            notices.append("the mask is empty, so the photo acts nowhere")
        return notices
