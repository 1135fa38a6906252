"""Everything this pack asks of ComfyUI's internals, and the only package that does.

Works on ComfyUI 0.3.64 and later. Nothing is patched: a MODEL is cloned and given keyed wrappers.
"""

from __future__ import annotations

from .apart import explained, is_out_of_memory, kept_out, set_apart
from .features import (
    free_unused,
    may_stop_early,
    others_acting,
    out_of_memory,
    room_for_features,
    weights_key,
)
from .files import (
    chain_file_digest,
    chain_names,
    chain_preview,
    check_prefix,
    find_chain,
    load_chain,
    save_chain,
)
from .hooks import (
    Enough,
    compute_uncond,
    encode_conditioning,
    evaluate,
    set_wrappers,
    with_hooks,
    wrapper_owner,
)
from .kernels import attention, for_longer_keys, untraced
from .loras import are_loras, hooks_of, keep_changed_weights, register_loras
from .models import (
    FAMILIES,
    from_model_space,
    is_flow,
    is_inpainting,
    latent_channels,
    model_card,
    scaling_of,
    scheduler_sigmas,
    timesteps_of,
    to_model_space,
)
from .previews import from_pillow, picture_of, to_pillow
from .rows import encoded_text, has_text, row_names, row_roles, watch_windows
from .runs import (
    NOISELESS,
    SAMPLERS,
    SCHEDULERS,
    invert,
    latent_mask,
    partial_noise_sampler,
    probe,
    sample,
    sampler,
    stop_if_interrupted,
    unit_noise,
)
from .texts import same_encoding, token_ids, word_ids
from .weights import is_fingerprint, weights_differ, weights_fingerprint

__all__ = [
    "FAMILIES",
    "NOISELESS",
    "SAMPLERS",
    "SCHEDULERS",
    "Enough",
    "are_loras",
    "attention",
    "chain_file_digest",
    "chain_names",
    "chain_preview",
    "check_prefix",
    "compute_uncond",
    "encode_conditioning",
    "encoded_text",
    "evaluate",
    "explained",
    "find_chain",
    "for_longer_keys",
    "free_unused",
    "from_model_space",
    "from_pillow",
    "has_text",
    "hooks_of",
    "invert",
    "is_fingerprint",
    "is_flow",
    "is_inpainting",
    "is_out_of_memory",
    "keep_changed_weights",
    "kept_out",
    "latent_channels",
    "latent_mask",
    "load_chain",
    "may_stop_early",
    "model_card",
    "others_acting",
    "out_of_memory",
    "partial_noise_sampler",
    "picture_of",
    "probe",
    "register_loras",
    "room_for_features",
    "row_names",
    "row_roles",
    "same_encoding",
    "sample",
    "sampler",
    "save_chain",
    "scaling_of",
    "scheduler_sigmas",
    "set_apart",
    "set_wrappers",
    "stop_if_interrupted",
    "timesteps_of",
    "to_model_space",
    "to_pillow",
    "token_ids",
    "unit_noise",
    "untraced",
    "watch_windows",
    "weights_differ",
    "weights_fingerprint",
    "weights_key",
    "with_hooks",
    "word_ids",
    "wrapper_owner",
]
