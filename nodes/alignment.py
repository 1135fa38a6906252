"""A patched MODEL at work: at every step the exemplar runs first, then the image reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ..rival_core.alignment import Step, steering, with_exemplars
from ..rival_core.attention import Layer, blended_attention, lengthen
from ..rival_core.errors import RivalError
from ..rival_core.exemplar import Exemplar, in_order
from ..rival_core.guidance import Keep
from . import host
from .features import shelves
from .recorder import Recorder
from .remarks import NODE, Remarks
from .schema import named

GUIDANCE = "RIVAL Blended Guidance"
KEY = "rival"
OUT_OF_MEMORY = (
    "the memory does not suffice for the photo's own row: make fewer images at once, invert a "
    "smaller photo, or choose layers decoder or coarse"
)


class Injection:
    """An attn1 patch for the generated rows, and the attn1 replaces of a fractional strength."""

    def __init__(self, step: Step, roles: dict[Any, str], taken: Iterable[tuple]):
        self.step = step
        self.roles = roles
        self.taken = set(taken)

    def __call__(self, n, context, value, extra_options):
        layer = (extra_options["block"], extra_options["block_index"])
        steering = self.step.steering.at(layer)
        if self.is_taken(layer) or not steering.readers:
            return n, context, value
        roles = [self.roles.get(row, "positive") for row in extra_options["uuids"]]
        with named(NODE):
            chunks = [self.step.read(layer, role) for role in roles]
        own_is_one = value is context
        if len(n) != len(context):
            # HyperTile cut the queries into tiles; ComfyUI then reads keys in that many chunks.
            context, value = (t.reshape(len(n), -1, t.shape[-1]) for t in (context, value))
        rows = len(n) // len(chunks)
        replace = steering.replace and not steering.blends
        longer = lengthen(context, [c.context for c in chunks], rows, replace)
        if own_is_one and all(c.value is c.context for c in chunks):
            return n, longer, longer
        return n, longer, lengthen(value, [c.value for c in chunks], rows, replace)

    def is_taken(self, layer: Layer) -> bool:
        """Whether another node computes this layer's self-attention in this call."""
        block, depth = layer
        return (*block, depth) in self.taken or block in self.taken

    def replaces(self) -> dict[tuple, Any]:
        """Attention functions that blend plain with injected, for the layers that need them."""
        if not any(e.strength < 1 or e.mask is not None for e in self.step.steering.readers):
            return {}
        layers = set().union(*self.step.tokens.values())
        free = [layer for layer in layers if not self.is_taken(layer) and self.is_blended(layer)]
        return {(*block, depth): self.blend for block, depth in free}

    def is_blended(self, layer: Layer) -> bool:
        steering = self.step.steering.at(layer)
        return bool(steering.readers) and steering.blends

    def blend(self, q, k, v, extra_options, mask=None):
        layer = (extra_options["block"], extra_options["block_index"])
        steering = self.step.steering.at(layer)
        role = self.roles.get(extra_options["uuids"][0], "positive")
        attention = partial(host.attention, extra_options=extra_options)
        with named(NODE):
            length = self.step.read(layer, role).context.shape[1]
            like = q.new_empty(1, 1, *extra_options["original_shape"][2:])
            share, allowed = self.step.shares(layer, q.shape[1], like)
        return blended_attention(attention, q, k, v, length, steering.replace, share, allowed)


class Run:
    """Everything one sampling run keeps. The exemplar's tokens live for one sigma at a time."""

    def __init__(self, exemplars: Sequence[Exemplar], guider: Any):
        self.exemplars = exemplars
        self.guider = guider
        self.timesteps = host.timesteps_of(guider.model_patcher)
        self.roles: dict[Any, str] | None = None
        self.conds: dict[int, dict[str, list]] = {}
        self.step: Step | None = None
        self.shelves = shelves(exemplars, guider.model_patcher)
        self.remarks = Remarks()

    def release(self) -> None:
        self.step = self.guider = self.roles = None
        self.conds.clear()
        self.shelves.clear()

    def at(self, sigma: float) -> Step:
        """The step at this sigma; moving to another frees the last one's tokens."""
        if self.step is None or self.step.sigma != sigma:
            self.step = Step(sigma, steering(self.exemplars, self.timesteps.t(sigma)))
        return self.step

    def row_roles(self) -> dict[Any, str]:
        if self.roles is None:
            self.roles = host.row_roles(getattr(self.guider, "conds", {}))
        return self.roles

    def inject(self, model, conds, x: Tensor, sigma: Tensor, model_options: dict) -> dict:
        """The options for the generated rows' call, after running the exemplars they read."""
        step = self.at(float(sigma[0]))
        roles = self.row_roles()
        present = {roles.get(c["uuid"], "positive") for cond in conds for c in cond or []}
        self.run_exemplars(step, model, present, x, sigma, model_options)
        if not step.steering.readers:
            return model_options
        replaces = model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
        self.remarks.of_other_attention(replaces)
        injection = Injection(step, roles, replaces)
        faster = host.for_longer_keys(model_options, x.device)
        return host.with_hooks(model_options, injection, injection.replaces(), **faster)

    def run_exemplars(self, step, model, present, x, sigma, model_options) -> None:
        """Runs, in one batch a chain, the exemplar rows that this step needs and does not have."""
        for chain, rows, reads in step.due(present):
            shelf = self.shelves.get(id(chain))
            if shelf is not None:
                rows = shelf.recall(step, rows, x, model_options)
            if rows:
                self.retried(step, chain, rows, reads, model, x, sigma, model_options)
                if shelf is not None:
                    shelf.keep(step, rows, x, model_options)

    def retried(self, *args) -> None:
        """Runs an exemplar; where memory does not suffice, once more with its cache in RAM."""
        try:
            return self.run_exemplar(*args)
        except Exception as error:
            if not host.is_out_of_memory(error):
                raise
        # Only here, where the error is gone, are its frames and their tensors.
        for shelf in self.shelves.values():
            shelf.move_to_ram()
        host.free_unused()
        try:
            self.run_exemplar(*args)
        except Exception as error:
            if not host.is_out_of_memory(error):
                raise
            raise host.out_of_memory(f"{NODE}: {OUT_OF_MEMORY}.") from error

    def run_exemplar(self, step, chain, rows, reads, model, x, sigma, model_options) -> None:
        x_ex = chain.at(step.sigma).to(x)
        if id(chain) not in self.conds:
            prompts = {"positive": chain.positive, "negative": chain.negative}
            given = {row: prompt for row, prompt in prompts.items() if prompt is not None}
            self.conds[id(chain)] = host.encode_conditioning(model, given, x_ex, chain.sigmas)
        conds = [self.conds[id(chain)][row] for row in rows]
        roles = {cond[0]["uuid"]: row for cond, row in zip(conds, rows)}
        stops = not step.normalizes(chain) and host.may_stop_early(
            self.guider.model_patcher, model_options, chain.positive, chain.negative
        )
        recorder = Recorder(roles, step.layers(chain), stops)
        options = host.with_hooks(model_options, recorder if reads else None, **{KEY: recorder})
        denoised = host.evaluate(model, conds, x_ex, sigma[:1], options)
        step.keep(chain, x_ex, dict(zip(rows, denoised or [])), recorder.tokens)

    def normalize(self, x: Tensor, denoised: Tensor, sigma: Tensor, model_options: dict) -> Tensor:
        """The guided prediction with the exemplars' noise statistics, where the gates say so."""
        step = self.at(float(sigma[0]))
        if step.steering.normalizers:
            self.remarks.of_start(self.exemplars, x, step.sigma)
            self.run_exemplars(step, self.guider.inner_model, set(), x, sigma, model_options)
        return step.normalize(x, denoised)


class Alignment:
    """The wrappers of a patched MODEL. Holds what was asked for; a run's state is its Run."""

    def __init__(self, exemplars: Sequence[Exemplar] = (), keep: Keep | None = None):
        self.exemplars = in_order(exemplars)
        self.keep = keep

    def outer_sample(self, executor, *args, **kwargs):
        guider = executor.class_obj
        options = guider.model_options["transformer_options"]  # this run's own copy
        if any(hooks_of(e.chain) for e in self.exemplars):
            host.keep_changed_weights(guider)
        run = options[KEY] = Run(self.exemplars, guider)
        try:
            return executor(*args, **kwargs)
        finally:
            options.pop(KEY, None)
            run.release()

    def prepare_sampling(self, executor, model, noise_shape, *args, **kwargs):
        """The host loads models for as much memory as sampling will really take."""
        return executor(model, with_exemplars(noise_shape, self.exemplars), *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options={}, *args, **kwargs):
        sigma, seen = float(timestep[0]), x
        if self.keep is not None:
            with named(GUIDANCE):
                seen = self.keep.enter(x, sigma)
        denoised = executor(seen, timestep, model_options, *args, **kwargs)
        denoised = run_of(model_options).normalize(seen, denoised, timestep, model_options)
        return denoised if self.keep is None else self.keep.leave(x, denoised, sigma)

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        run = run_of(model_options)
        if isinstance(run, Run):  # else this is the exemplar's own call
            model_options = run.inject(model, conds, x_in, timestep, model_options)
        return executor(model, conds, x_in, timestep, model_options)


def run_of(model_options: dict) -> Any:
    state = model_options.get("transformer_options", {}).get(KEY)
    if state is None:
        raise RivalError(
            f"{NODE}: this sampler dropped the run's transformer options, so nothing "
            "would be injected; use KSampler, SamplerCustomAdvanced or RIVAL KSampler."
        )
    return state


def hooks_of(chain) -> list:
    """The LoRA hooks that a chain was inverted with."""
    return host.hooks_of(chain.positive) + host.hooks_of(chain.negative)


def alignment_of(model) -> Alignment | None:
    """What this pack's patches put on a MODEL."""
    return host.wrapper_owner(model, KEY)


def exemplars_of(model) -> tuple[Exemplar, ...]:
    """The exemplars that a MODEL is steered by."""
    alignment = alignment_of(model)
    return alignment.exemplars if alignment else ()


def align(model, exemplar: Exemplar):
    """A clone of the MODEL steered by one exemplar more."""
    alignment = alignment_of(model) or Alignment()
    aligned = Alignment([*alignment.exemplars, exemplar], alignment.keep)
    model = host.register_loras(model, hooks_of(exemplar.chain))
    return host.set_wrappers(model, KEY, aligned)


def keep_photo(model, keep: Keep):
    """A clone of the MODEL that keeps a photo outside a mask, in place of any kept so far."""
    return host.set_wrappers(model, KEY, Alignment(exemplars_of(model), keep))
