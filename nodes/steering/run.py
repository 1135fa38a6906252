"""A patched MODEL at work: at every step the exemplar runs first, then the image reads it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from ...rival_core.editing.pull import Pull
from ...rival_core.errors import RivalError
from ...rival_core.inversion.schedule import Timesteps, percent_done
from ...rival_core.sampling.guidance import Blend, Keep
from ...rival_core.steering.exemplar import Exemplar, fewer_layers, in_order
from ...rival_core.steering.step import Step, steering, with_exemplars
from .. import host
from ..schema import named
from .calls import CallWatch
from .features import shelves
from .prediction import Prediction, Prompts
from .reader import Reader
from .recorder import Recorder
from .remarks import NODE, Remarks
from .riding import Asked, Ride, reason_against

GUIDANCE, PULL = "RIVAL Blended Guidance", "RIVAL Pull"
KEY = host.OURS
OUT_OF_MEMORY = (
    "the memory does not suffice for the photo's own row: make fewer images at once, or choose"
)


class Run:
    """Everything one sampling run keeps. The exemplar's tokens live for one sigma at a time."""

    def __init__(self, exemplars: Sequence[Exemplar], guider: Any):
        self.exemplars = exemplars
        self.guider = guider
        self.prompts: Prompts | None = None
        self.prediction: Prediction | None = None
        self.conds: dict[int, dict[str, list]] = {}
        self.step: Step | None = None
        self.rode_at: float | None = None  # the sigma of the last call that photos rode in
        self.stays_apart = False  # whether photos ride in no more calls
        self.shelves = shelves(exemplars, guider.model_patcher)
        self.port = host.port_of(guider.model_patcher)
        self.remarks = Remarks()

    def release(self) -> None:
        self.step = self.guider = self.prompts = self.prediction = None
        self.conds.clear()
        self.shelves.clear()

    def begin(self, x: Tensor) -> None:
        """A guided prediction of x [B, C, H, W] is to be made."""
        if self.prompts is None:  # only now are the guider's prompts encoded
            chains = [e.chain for e in self.exemplars]
            self.prompts = Prompts(self.guider, chains, self.remarks)
        self.prediction = Prediction(self.prompts, x)

    @cached_property
    def timesteps(self) -> Timesteps:
        """The model's; asked for where there is an exemplar or a pull."""
        return host.timesteps_of(self.guider.model_patcher)

    def percent(self, sigma: float) -> float:
        """Which fraction of the schedule is done at a sigma."""
        return percent_done(self.timesteps, sigma)

    def at(self, sigma: float) -> Step:
        """The step at this sigma; moving to another frees the last one's tokens."""
        if self.step is None or self.step.sigma != sigma:
            times = self.timesteps
            acting = steering(self.exemplars, times.t(sigma), times.slack)
            self.remarks.of_torn_chain(acting.chains, sigma)
            self.step = Step(sigma, acting)
        return self.step

    def inject(self, model, conds, x: Tensor, sigma: Tensor, model_options: dict) -> dict:
        """The options for the generated rows' call, after running the exemplars they read."""
        if self.prediction is None:  # a guider may ask without predicting
            self.begin(x)
        roles = self.prompts.roles_of(conds)
        if not self.exemplars:
            return model_options
        step, entries = self.at(float(sigma[0])), [e for cond in conds for e in cond or []]
        present = {roles[entry["uuid"]] for entry in entries}

        def apart(options: dict) -> dict:
            self.run_exemplars(step, model, present, x, sigma, model_options)
            return self.lending(step, roles, conds, x, options)

        due = [*step.due(present)]
        if due and self.rode_at == step.sigma:
            self.stays_apart = True  # a photo that rides is gone after the call
        asked = Asked(self, step, due, model, entries, x, model_options)
        if reason_against(asked) is not None:
            return apart(model_options)
        ride = Ride(asked, roles, apart)
        return host.with_hooks(model_options, around_apply_model=[ride])

    def lending(self, step, roles, conds, x: Tensor, model_options: dict) -> dict:
        """The options of a call whose rows read photos that have run."""
        if not step.steering.readers:
            return model_options
        self.remarks.of_other_attention(self.port.taken(model_options))
        watch = CallWatch(roles, conds, x, self.prediction.x, step.steering)
        watch = watch if watch.is_needed else None
        reader = Reader(step, roles, watch, self.remarks.of_unread_call)
        return self.port.lending(model_options, reader, x.device)

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
            advice = fewer_layers(self.exemplars[0].chain.model)
            raise host.out_of_memory(f"{NODE}: {OUT_OF_MEMORY} {advice}.") from error

    def run_exemplar(self, step, chain, rows, reads, model, x, sigma, model_options) -> None:
        x_ex = chain.at(step.sigma).to(x)
        conds = [self.encoded(chain, model, x_ex)[row] for row in rows]
        roles = {cond[0]["uuid"]: row for cond, row in zip(conds, rows)}
        stops = not step.normalizes(chain) and host.may_stop_early(
            self.guider.model_patcher, model_options, chain.positive, chain.negative
        )
        recorder = Recorder(roles, step.layers(chain), stops)
        options = host.with_hooks(model_options, **{KEY: recorder})
        options = self.port.recording(options, recorder) if reads else options
        self.remarks.of_kept_out(host.kept_out(model_options))
        with named(NODE):
            denoised = host.evaluate(model, conds, x_ex, sigma[:1], options)
        step.keep(chain, x_ex, dict(zip(rows, denoised or [])), recorder.tokens)

    def encoded(self, chain, model, x: Tensor) -> dict[str, list]:
        """The prompts that a chain's photo is seen with, as the model takes them."""
        if id(chain) not in self.conds:
            prompts = {"positive": chain.positive, "negative": chain.negative}
            given = {row: prompt for row, prompt in prompts.items() if prompt is not None}
            self.conds[id(chain)] = host.encode_conditioning(model, given, x, chain.sigmas)
        return self.conds[id(chain)]

    def out_of_memory(self) -> None:
        """The call that photos rode in did not fit: no more do, for the rest of the run."""
        self.stays_apart = True
        self.remarks.of_memory()
        host.free_unused()

    def normalize(self, x: Tensor, denoised: Tensor, sigma: Tensor, model_options: dict) -> Tensor:
        """The guided prediction with the exemplars' noise statistics, where the gates say so."""
        if not self.exemplars:
            return denoised
        step = self.at(float(sigma[0]))
        if step.steering.normalizers:
            self.remarks.of_start(self.exemplars, x, step.sigma)
            self.run_exemplars(step, self.guider.inner_model, set(), x, sigma, model_options)
        return step.normalize(x, denoised)


class Alignment:
    """The wrappers of a patched MODEL. Holds what was asked for; a run's state is its Run."""

    def __init__(
        self,
        exemplars: Sequence[Exemplar] = (),
        keep: Keep | None = None,
        blends: Sequence[Blend] = (),
        pulls: Sequence[Pull] = (),
    ):
        self.exemplars = in_order(exemplars)
        self.keep = keep
        self.blends = tuple(blends)
        self.pulls = tuple(pulls)

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
        shape = with_exemplars(noise_shape, self.exemplars)
        return executor(model, host.with_lent(model, shape, self.exemplars), *args, **kwargs)

    def predict_noise(self, executor, x, timestep, model_options={}, *args, **kwargs):
        run, sigma, seen = run_of(model_options), float(timestep[0]), x
        if self.keep is not None:
            with named(GUIDANCE):
                seen = self.keep.enter(x, sigma)
        run.begin(seen)
        options = model_options
        if self.blends:
            options = host.watch_windows(model_options, run.prediction.saw)
        denoised = executor(seen, timestep, options, *args, **kwargs)
        denoised, run.prediction = self.blended(run, denoised), None
        denoised = run.normalize(seen, denoised, timestep, model_options)
        with named(PULL):
            for pull in self.pulls:
                denoised = pull(seen, denoised, sigma, run.percent(sigma))
        return denoised if self.keep is None else self.keep.leave(x, denoised, sigma)

    def blended(self, run: Run, denoised: Tensor) -> Tensor:
        """The guided prediction, whatever guided it, with the low guidance outside the masks."""
        if not self.blends:
            return denoised
        unguided = run.prediction.unguided()
        if unguided is None:
            run.remarks.of_no_unconditional()
            return denoised
        with named(GUIDANCE):
            for blend in self.blends:
                denoised = blend(denoised, *unguided)
        return denoised

    def calc_cond_batch(self, executor, model, conds, x_in, timestep, model_options):
        run = run_of(model_options)
        if not isinstance(run, Run):  # this is the exemplar's own call
            return executor(model, conds, x_in, timestep, model_options)
        model_options = run.inject(model, conds, x_in, timestep, model_options)
        with named(NODE):
            denoised = executor(model, conds, x_in, timestep, model_options)
        if self.blends:
            run.prediction.saw(conds, denoised)
        return denoised


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


def is_pulled(model) -> bool:
    """Whether a MODEL's predictions are pulled to a photo."""
    alignment = alignment_of(model)
    return alignment is not None and bool(alignment.pulls)


def align(model, exemplar: Exemplar):
    """A clone of the MODEL steered by one exemplar more."""
    model, now = host.register_loras(model, hooks_of(exemplar.chain)), alignment_of(model)
    return realigned(model, exemplars=[*now.exemplars, exemplar] if now else [exemplar])


def realigned(model, **changes):
    """A clone of the MODEL with something of what this pack put on it changed."""
    now = alignment_of(model) or Alignment()
    return host.set_wrappers(model, KEY, Alignment(**{**vars(now), **changes}))
