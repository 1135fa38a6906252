"""The photos' rows in the generated rows' call: equal to calls of their own, and when they ride."""

from __future__ import annotations

import gc
import weakref

import graph
import others
import pytest
import spies
import tiny_dits
import torch
from comfyui_rival.nodes.steering import riding
from comfyui_rival.rival_core.steering.exemplar import Exemplar
from comfyui_rival.rival_core.steering.gates import Gates
from composing import chain_of, guider_of, model_of, noised, predict, prompt, prompts, remembered
from controls import Applied, control_net, controlled, hint
from dit_predictions import guided, photo
from loras import hook_lora, hooked

pytestmark = [pytest.mark.host, pytest.mark.sampled]
TO_THE_END = {"normalize_end": 1.0}
CONCAT = {"replace_end": 0.0}
HALF = (torch.arange(8) < 4).float().expand(1, 8, 8)
PLACE = 2  # in a chain of 5 steps
ROUNDING = 2e-6  # in single precision: a plain batch is as far from its rows, made one by one


def relative(a, b) -> float:
    return float((a - b).norm() / b.norm())


def both_ways(model, run):
    """What the network answers to the generated rows, [rows, ...], where photos ride and apart."""
    with spies.answers(model) as together:
        run()
    with spies.answers(model) as apart, spies.photos_apart():
        run()
    assert len(together) == 1 and len(apart) == 2, "calls"
    assert len(together[0]) == sum(map(len, apart)), "rows"
    photos = len(apart[0])
    return together[0][:photos], apart[0], together[0][photos:], apart[1]


# --- equal to a call of their own ----------------------------------------------------------------

READ = {
    "replace": {},
    "concat": CONCAT,
    "strength": {"strength": 0.5, **CONCAT},
    "mask": {"mask": HALF, **CONCAT},
    "exemplar mask": {"exemplar_mask": HALF, **CONCAT},
    "quarter": {"exemplar_keys": "quarter", **CONCAT},
    "decoder": {"layers": "decoder", **CONCAT},
    "statistics alone": {"inject_end": 0.0},
}


def steered(chain, family="sd15", model=None, **inputs):
    return graph.patch(model or model_of(family), chain, **{**TO_THE_END, **inputs})


@remembered
def exact(family):
    """The tiny model with a network in double precision, where rounding is no matter."""
    import tiny

    model = tiny.build(family)
    model.model.diffusion_model.double().dtype = torch.float64
    return model


def prediction(model, family="sd15", x=None, place=PLACE, cfg=4.0, **conds):
    """One guided prediction of two images at a place of the chain."""
    chain = chain_of(family)
    x = noised(chain, place, batch=2) if x is None else x
    guider = guider_of(model, **{**prompts(family), **conds}, cfg=cfg)
    return predict(guider, x, float(chain.sigmas[place]))


@pytest.mark.parametrize("way", READ)
def test_rows_are_those_of_two_calls(way):
    model = steered(chain_of("sd15"), model=exact("sd15"), **READ[way])
    place = -1 if way == "replace" else PLACE
    mine, own, rows, apart = both_ways(model, lambda: prediction(model, place=place))
    assert relative(mine, own) < 1e-7 and relative(rows, apart) < 1e-7


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd2_v", "sd15_inpaint"])
def test_to_rounding(family):
    model = steered(chain_of(family), family, **CONCAT)
    *_, rows, apart = both_ways(model, lambda: prediction(model, family))
    assert relative(rows, apart) < ROUNDING


def test_two_rows_of_a_photo_and_two_photos():
    pair, other = chain_of("sd15", negative=True), chain_of("sd15", seed=1)
    one = steered(pair, model=exact("sd15"), **CONCAT)
    for model in (one, graph.patch(one, other, **TO_THE_END)):
        with spies.answers(model) as together:
            guided = prediction(model)
        with spies.answers(model) as apart, spies.photos_apart():
            same = prediction(model)
        assert len(together) == 1 and relative(guided, same) < 1e-7
        assert relative(together[0][-4:], apart[-1]) < 1e-7


def test_a_run_and_its_count():
    chain, model = chain_of("sd15"), steered(chain_of("sd15"))
    with spies.model_rows(model) as calls:
        samples = graph.rival_sample(model, chain, **prompts(), batch_size=2)
    with spies.photos_apart(), spies.model_rows(model) as more:
        separate = graph.rival_sample(model, chain, **prompts(), batch_size=2)
    assert [n for n, _ in calls] == [5] * 5 and [n for n, _ in more] == [1, 4] * 5
    assert relative(samples, separate) < 1e-5, "rounding, guided and over five steps"


@pytest.mark.parametrize("family", tiny_dits.FAMILIES)
def test_dits(family):
    from comfyui_rival.nodes.steering.run import align

    if family not in tiny_dits.available():
        pytest.skip(f"this ComfyUI has no {family}")
    dit = tiny_dits.build(family)
    x = tiny_dits.noise(dit, 1, batch=2)
    a, b, c = (tiny_dits.conditioning(dit, i) for i in range(3))
    of_photo = tiny_dits.noise(dit, 2)
    masked = {"mask": HALF, "seen": HALF.flip(-1), "strength": 0.7}
    for chain, replace_end, more in ((photo(dit, of_photo, c), 0.0, masked),
                                     (photo(dit, of_photo, c, a), 1.0, {})):  # fmt: skip
        gates = Gates(replace_end=replace_end, normalize_end=1.0)
        model = align(dit, Exemplar(chain, gates, **more))
        *_, rows, apart = both_ways(dit, lambda model=model: guided(model, x, a, b))
        assert relative(rows, apart) < ROUNDING


# --- what the host does with the rows' calls -----------------------------------------------------


def rows_of(model, **inputs) -> list[int]:
    with spies.model_rows(model) as calls:
        prediction(model, **inputs)
    return [n for n, _ in calls]


def test_one_row_without_guidance():
    assert rows_of(steered(chain_of("sd15")), cfg=1.0) == [3]


def test_a_split_batch():
    """Texts of 77 and 100 tokens do not fit in one call, so the photo has one of its own."""
    import tiny

    model = steered(chain_of("sd15"))
    assert rows_of(model, negative=tiny.conditioning(model, 4, tokens=100)) == [1, 2, 2]


def test_longer_texts_are_what_the_host_makes_of_them():
    import tiny

    model = steered(chain_of("sd15"), **CONCAT)
    longer = {name: tiny.conditioning(model, i, tokens=154) for i, name in enumerate(prompts())}
    *_, rows, apart = both_ways(model, lambda: prediction(model, **longer))
    assert relative(rows, apart) < ROUNDING
    odd = {name: tiny.conditioning(model, i, tokens=100) for i, name in enumerate(prompts())}
    assert rows_of(model, **odd) == [1, 4]


def test_no_room_for_one_row_more(monkeypatch):
    base, model = model_of("sd15").model, steered(chain_of("sd15"))
    free = 1.5 * base.memory_required([4, 4, 8, 8]) + 1

    def told(device=None, torch_free_too=False):
        return (free, free) if torch_free_too else free

    monkeypatch.setattr("comfy.model_management.get_free_memory", told)
    assert rows_of(model) == [1, 4]


def test_a_second_call_in_a_step_needs_the_photo_again():
    """Heun comes back to each sigma; from the first time on the photo runs apart, once a sigma."""
    chain, model = chain_of("sd15"), steered(chain_of("sd15"))
    with spies.model_rows(model) as calls:
        graph.core_sample(model, chain, **prompts(), sampler="heun")
    assert [n for n, _ in calls] == [3, 3, 1, 2, 1, 2, *[2, 1, 2] * 2, 2, 2]


# --- reasons not to ride -------------------------------------------------------------------------


def cut(conditioning, **more):
    (text, options), = conditioning
    return [[text, {**options, **more}]]


def changed(model, change):
    model = model.clone()
    change(model)
    return model


def compiled(model):
    def call(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    model.add_wrapper_with_key("apply_model", "torch.compile", call)


def attn1_patched(model):
    model.set_model_attn1_patch(lambda n, context, value, extra: (n, context, value))


def with_guidance(model):
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"])


MODELS = {
    "features are kept": lambda chain: steered(chain, features="cached"),
    "a call of its own ends early":
        lambda chain: steered(chain, layers="coarse", normalize_end=0.0),
    "the model is compiled": lambda chain: changed(steered(chain), compiled),
    "a node's guidance may call again, with a model that it disturbs":
        lambda chain: changed(steered(chain), with_guidance),
    "another node is around the calls": lambda chain: others.step_cache(steered(chain), 1),
    "another node acts in the model": lambda chain: changed(steered(chain), attn1_patched),
}
PARTIAL = {
    "an area": lambda c: cut(c, area=(8, 8, 0, 0)),
    "a mask": lambda c: cut(c, mask=HALF, set_area_to_bounds=False),
    "a part of the schedule": lambda c: cut(c, start_percent=0.0, end_percent=0.9),
}
ELSEWHERE = {  # tested by themselves, above and below
    "no photo is to be run", "memory was short, or a step makes several calls",
    "a photo has run in this step", "a photo has another size",
    "a prompt has a control, an area, hooks or a part of the schedule",
}  # fmt: skip


def test_every_reason_is_tested():
    assert {*MODELS, *ELSEWHERE} == {*riding.REASONS}


@pytest.mark.parametrize("reason", MODELS)
def test_reasons(reason):
    assert rows_of(MODELS[reason](chain_of("sd15"))) == [1, 4]


@pytest.mark.parametrize("name", PARTIAL)
def test_prompts_that_keep_a_photo_apart(name):
    rows = rows_of(steered(chain_of("sd15")), positive=PARTIAL[name](prompt("sd15", 3)))
    assert rows[0] == 1


def test_a_control_keeps_it_apart():
    conds = controlled(prompts(), Applied(control_net, hint()))
    assert rows_of(steered(chain_of("sd15")), **conds)[0] == 1


def test_hooks_keep_it_apart():
    model, hooks = steered(chain_of("sd15")), hook_lora({0.0: 0.5})
    conds = {name: hooked(cond, hooks) for name, cond in prompts().items()}
    assert rows_of(model, **conds)[0] == 1


def test_another_size_keeps_it_apart():
    x = noised(chain_of("sd15"), PLACE, size=(8, 12))
    assert rows_of(steered(chain_of("sd15")), x=x) == [1, 2]


def test_nothing_to_ride_outside_the_gates():
    assert rows_of(steered(chain_of("sd15"), inject_end=0.0, normalize_end=0.0)) == [4]


# --- too little memory, and what is left ---------------------------------------------------------


def out_of_memory(*_):
    import comfy.model_management

    return comfy.model_management.OOM_EXCEPTION("no memory left")


def test_too_little_memory_is_said_once_and_nothing_is_lost(caplog):
    chain, model = chain_of("sd15"), steered(chain_of("sd15"))
    with spies.photos_apart():
        expected = graph.rival_sample(model, chain, **prompts())
    with spies.model_rows(model, 1, out_of_memory) as calls:
        samples = graph.rival_sample(model, chain, **prompts())
    assert [n for n, _ in calls] == [3, *[1, 2] * 5] and torch.equal(samples, expected)
    assert sum("a call of its own" in message for message in caplog.messages) == 1
    with spies.model_rows(model, 3, out_of_memory) as calls:
        graph.rival_sample(model, chain, **prompts())
    assert [n for n, _ in calls] == [3, 3, 3, *[1, 2] * 3]


def test_other_errors_are_not_tried_again():
    with spies.model_rows(model_of("sd15"), 1) as calls, pytest.raises(RuntimeError):
        prediction(steered(chain_of("sd15")))
    assert len(calls) == 1


@pytest.mark.any_host
def test_what_a_layer_lends_is_gone_with_the_layer(monkeypatch):
    held, alive, original = [], [], riding.Passing.keep

    def watched(self, layer, rows, context, value, place=0.0):
        gc.collect()
        alive.append(sum(one() is not None for one in held))
        original(self, layer, rows, context, value, place)
        kept = (tokens for own in self.step.tokens.values() for tokens in own.values())
        held.extend(weakref.ref(tokens.context) for tokens in kept)

    monkeypatch.setattr(riding.Passing, "keep", watched)
    prediction(steered(chain_of("sd15")))
    gc.collect()
    assert len(held) > 2 and max(alive) <= 1 and not any(one() for one in held)
