"""The kinds of DiT whose attention is read: for each where its image's keys are, as a row of data.

The counts and orders were read in ComfyUI 0.3.64 and 0.33, and are tested on both (identities).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from comfy.text_encoders.llama import precompute_freqs_cis
from torch import Tensor

from .calls import Block, Call
from .joint import Joint
from .positions import Rotary, by_angles, by_embedder

IMAGE, OTHER = True, False  # an attention call that holds the image's keys, or none of them


def blocks_of(*kinds: tuple[str, str | None, tuple[bool, ...]]) -> Callable[[Any], list[Block]]:
    """A network's blocks, in order: of each kind its list, its name in patches, its calls."""

    def blocks(network: Any) -> list[Block]:
        return [
            (None if name is None else (name, i), calls)
            for attribute, name, calls in kinds
            for i in range(len(attrgetter(attribute)(network)))
        ]

    return blocks


def first(call: Call, length: int) -> list[int]:
    return [0]


def last(call: Call, length: int) -> list[int]:
    return [length - call.tokens]


def after_text(call: Call, length: int) -> list[int]:
    """References follow the image, so it is not counted from the end."""
    return [call.text]


def alone(call: Call, length: int) -> list[int]:
    """Nothing tells which keys are the image's if there are more."""
    return [0 if length == call.tokens else -1]


def sd3_blocks(network: Any) -> list[Block]:
    """One joint attention a block; in some of SD3.5 medium's, one of the image alone after it."""
    with_second = [block.x_block.x_block_self_attn for block in network.joint_blocks]
    return [(("double_block", i), (IMAGE,) * (1 + two)) for i, two in enumerate(with_second)]


def wan_blocks(network: Any) -> list[Block]:
    """Self-attention, then cross-attention: to the text, and in i2v before it to a picture."""
    cross = 2 if network.model_type == "i2v" else 1
    calls = (IMAGE, *(OTHER,) * cross)
    return [(("double_block", i), calls) for i in range(len(network.blocks))]


def hunyuan_starts(call: Call, length: int) -> list[int]:
    """Older hosts put the image first, newer ones last."""
    is_first = getattr(call.network.double_blocks[0], "flipped_img_txt", False)
    return first(call, length) if is_first else last(call, length)


def padded(call: Call, tokens: int) -> int:
    multiple = getattr(call.network, "pad_tokens_multiple", None) or 1
    return multiple * math.ceil(tokens / multiple)


def lumina_texts(call: Call) -> list[int]:
    """How long the texts before the image are: the image's first position, up to a constant."""
    mask = call.given.get("attention_mask")
    if mask is not None and not hasattr(call.network, "pad_tokens_multiple"):
        return mask.sum(dim=1).int().tolist()  # older hosts begin at each row's own text's end
    return [padded(call, call.text)]


def lumina_starts(call: Call, length: int) -> list[int]:
    """After the text, in the layers; alone in the refiners; unknown beside references."""
    if length == padded(call, call.tokens):
        return [0]
    texts = lumina_texts(call)
    return texts if length == max(texts) + padded(call, call.tokens) else [-1]


def cosmos_rotation(network: Any, ids: Tensor) -> Tensor:
    """Cosmos keeps its frequencies: time's, then those of rows and of columns."""
    own = network.pos_embedder
    frequencies = [
        (10000.0 * factor) ** -powers.to(ids)
        for factor, powers in (
            (own.t_ntk_factor, own.dim_temporal_range),
            (own.h_ntk_factor, own.dim_spatial_range),
            (own.w_ntk_factor, own.dim_spatial_range),
        )
    ]
    return by_angles(torch.cat([ids[..., i, None] * f for i, f in enumerate(frequencies)], dim=-1))


def joyimage_rotation(network: Any, ids: Tensor) -> Tensor:
    powers = (torch.arange(0, dim, 2).to(ids) / dim for dim in network.rope_dim_list)
    parts = [ids[..., i, None] * network.theta**-power for i, power in enumerate(powers)]
    return by_angles(torch.cat(parts, dim=-1))


def ideogram_rotation(network: Any, ids: Tensor) -> Tensor:
    cos, sin, *_ = precompute_freqs_cis(
        network.head_dim, ids[0].T, network.rope_theta, rope_dims=network.mrope_section,
        interleaved_mrope=True, device=ids.device,
    )  # fmt: skip
    half = sin.shape[-1]
    cos = cos[..., :half]
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, (2, 2))


BESIDE_TEXT = blocks_of(
    ("double_blocks", "double_block", (IMAGE,)), ("single_blocks", "single_block", (IMAGE,))
)
DOUBLE = blocks_of(("transformer_blocks", "double_block", (IMAGE,)))
ROTARY = by_embedder("pe_embedder")
HIDDEN = attrgetter("hidden_size")

FLUX = Joint("Flux", BESIDE_TEXT, after_text, HIDDEN, rotary=ROTARY)
LONGCAT = Joint(
    "Flux",
    BESIDE_TEXT,
    after_text,
    HIDDEN,
    rotary=by_embedder("pe_embedder", follow=(1, 2)),
    places=lambda call: [call.text],
)
CHROMA = Joint("Chroma", BESIDE_TEXT, after_text, HIDDEN, rotary=ROTARY)
QWEN = Joint(
    "QwenImageTransformer2DModel",
    DOUBLE,
    after_text,
    attrgetter("inner_dim"),
    rotary=ROTARY,
)
LUMINA = Joint(
    "NextDiT",
    blocks_of(
        ("context_refiner", None, (OTHER,)),
        ("noise_refiner", None, (IMAGE,)),
        ("layers", "double_block", (IMAGE,)),
    ),
    lumina_starts,
    attrgetter("dim"),
    rotary=by_embedder("rope_embedder"),
    places=lumina_texts,
    references=False,
)
SD3 = Joint("OpenAISignatureMMDITWrapper", sd3_blocks, last, HIDDEN)
WAN = Joint("WanModel", wan_blocks, alone, attrgetter("dim"), rotary=by_embedder("rope_embedder"))
HIDREAM = Joint(
    "HiDreamImageTransformer2DModel",
    blocks_of(("double_stream_blocks", None, (IMAGE,)), ("single_stream_blocks", None, (IMAGE,))),
    first,
    attrgetter("inner_dim"),
    rotary=ROTARY,
)
AURA = Joint(
    "MMDiT",
    blocks_of(
        ("double_layers", "double_block", (IMAGE,)), ("single_layers", "single_block", (IMAGE,))
    ),
    last,
    lambda network: network.cond_seq_linear.out_features,
)
HUNYUAN = Joint(
    "HunyuanVideo",
    blocks_of(
        ("txt_in.individual_token_refiner.blocks", None, (OTHER,)),
        ("double_blocks", "double_block", (IMAGE,)),
        ("single_blocks", "single_block", (IMAGE,)),
    ),
    hunyuan_starts,
    HIDDEN,
    rotary=ROTARY,
)

# Read in the newest host alone; older ones have none of these but OmniGen2.
ANIMA = Joint(
    "Anima",
    blocks_of(("blocks", None, (IMAGE, OTHER))),
    alone,
    attrgetter("model_channels"),
    patch="patch_spatial",
    rotary=Rotary(cosmos_rotation, halves=True),
)
KREA2 = Joint(
    "SingleStreamDiT",
    blocks_of(
        ("txtfusion.layerwise_blocks", None, (OTHER,)),
        ("txtfusion.refiner_blocks", None, (OTHER,)),
        ("blocks", "single_block", (IMAGE,)),
    ),
    after_text,
    lambda network: network.first.out_features,
    patch="patch",
    rotary=ROTARY,
)
LENS = Joint(
    "LensTransformer2DModel",
    DOUBLE,
    first,
    attrgetter("inner_dim"),
    patch=1,  # its latents are patches already
    rotary=by_embedder("pos_embed"),
)
OMNIGEN2 = Joint(
    "OmniGen2Transformer2DModel",
    blocks_of(
        ("context_refiner", None, (OTHER,)),
        ("noise_refiner", None, (IMAGE,)),
        ("layers", None, (IMAGE,)),
    ),
    last,
    HIDDEN,
    rotary=by_embedder("rope_embedder.rope_embedder"),
    places=lambda call: [call.given["num_tokens"]],
    references=False,
)
KANDINSKY5 = Joint(
    "Kandinsky5",
    blocks_of(
        ("text_transformer_blocks", None, (OTHER,)),
        ("visual_transformer_blocks", "double_block", (IMAGE, OTHER)),
    ),
    alone,
    attrgetter("model_dim"),
    rotary=by_embedder("rope_embedder_3d"),
)
JOYIMAGE = Joint(
    "JoyImageTransformer3DModel",
    blocks_of(("double_blocks", "double_block", (IMAGE,))),
    first,
    lambda network: network.proj_out.in_features,
    rotary=Rotary(joyimage_rotation),
)
MAGE_FLOW = Joint(
    "MageFlowTransformer2DModel", DOUBLE, after_text, attrgetter("inner_dim"), rotary=ROTARY
)
IDEOGRAM4 = Joint(
    "Ideogram4Transformer2DModel",
    blocks_of(("layers", None, (IMAGE,))),
    last,
    lambda network: network.input_proj.out_features,
    patch=1,  # its latents are patches already
    rotary=Rotary(ideogram_rotation, halves=True),
)
