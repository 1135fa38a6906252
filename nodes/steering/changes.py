"""What is put on a MODEL to change its guided predictions: each a clone, with one thing more."""

from __future__ import annotations

from ...rival_core.editing.pull import Pull
from ...rival_core.sampling.guidance import Blend, Keep
from .. import host
from .run import alignment_of, realigned


def keep_outside(model, keep: Keep):
    """A clone of the MODEL that keeps a photo outside a mask, in place of any kept so far."""
    return realigned(model, keep=keep)


def blend_guidance(model, blend: Blend):
    """A clone of the MODEL with a lower guidance outside one mask more."""
    now = alignment_of(model)
    model = realigned(model, blends=[*now.blends, blend] if now else [blend])
    return model if blend.outside == 1.0 else host.compute_uncond(model)


def pull_towards(model, pull: Pull):
    """A clone of the MODEL whose predictions, guided and normalised, are pulled once more."""
    now = alignment_of(model)
    return realigned(model, pulls=[*now.pulls, pull] if now else [pull])


def kept_where_pulled(model) -> list[str]:
    """A notice if RIVAL Blended Guidance keeps the photo where RIVAL Pull would pull."""
    now = alignment_of(model)
    if now is None or not any(pull.is_kept_by(now.keep) for pull in now.pulls):
        return []
    return [
        "keep_photo of RIVAL Blended Guidance keeps the photo in places where RIVAL Pull pulls, so "
        "the pull has no effect there"
    ]
