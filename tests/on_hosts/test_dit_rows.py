"""RIVAL on DiTs, one model call: against the photos as rows of one ordinary batch."""

from __future__ import annotations

import dit_rows
import dits
import pytest
import torch
from dit_rows import Row
from dits import CONCAT, FEW, MODES, REPLACE, SIGMA
from graph import relative

pytestmark = pytest.mark.host
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=FEW)
def family(request):
    dits.name_of(request.param)
    return request.param


def ours(family, x, *patches, negative=None, cfg=1.0):
    model = dits.patched(family, *patches)
    return dits.velocity(model, x, dits.prompt(family, 3), negative, cfg)


def theirs(family, x, photos, mode, **row):
    """The same of the oracle: x is a batch, every item of which reads the photos."""
    model = dits.model_of(family)
    columns = x.shape[-1] / 2 if row.pop("beside", False) else 0.0
    row = {"shares": [1.0] * len(photos), **row}
    rows = [Row(chain.latents[1:], chain.positive) for chain in photos]
    rows += [Row(one, dits.prompt(family, 3), reads=range(len(photos)), own=mode is CONCAT,
                 columns=columns, **row) for one in x.split(1)]
    out = dit_rows.denoise(model, dits.name_of(family), rows, SIGMA)[len(photos):]
    return (x - torch.cat(out)) / SIGMA


def photos(family):
    return [dits.photo(family, dits.noise(family, seed), dits.prompt(family, 1))
            for seed in (5, 6)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("positions", ["same", "beside"])
def test_a_batch_reads_a_photo(family, mode, positions):
    x, (chain, _), mode = dits.noise(family, batch=2), photos(family), MODES[mode]
    found = ours(family, x, (chain, {**mode, "positions": positions}))
    expected = theirs(family, x, [chain], mode, beside=positions == "beside")
    assert relative(found, expected) < TOLERANCE


SOFT = torch.linspace(0, 1, 64).expand(1, 64, 64)
SOFT_TOKENS = torch.linspace(0, 1, 64).view(4, 16).mean(1).repeat(4)
LEFT = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4)
CASES = {  # settings of each photo; what the oracle is told
    "a strength": ([{"strength": 0.6}], {"shares": [0.6]}),
    "a mask": ([{"mask": dits.half()}], {"shares": [LEFT]}),
    "a soft mask and a strength": ([{"mask": SOFT, "strength": 0.8}],
                                   {"shares": [0.8 * SOFT_TOKENS]}),
    "a part of the photo": ([{"exemplar_mask": dits.half("right")}],
                            {"seen": [(1 - LEFT).nonzero().flatten()]}),
    "two photos": ([{}, {}], {}),
    "two in two places": ([{"mask": dits.half()}, {"mask": dits.half("right", 0.5)}],
                          {"shares": [LEFT, 0.5 * (1 - LEFT)]}),
    "two that overlap": ([{"mask": SOFT}, {"mask": dits.half(), "strength": 0.5}],
                         {"shares": [SOFT_TOKENS, 0.5 * LEFT]}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", MODES)
def test_a_photo_where_it_acts(family, mode, case):
    settings, told = CASES[case]
    x, chains, mode = dits.noise(family), photos(family)[: len(settings)], MODES[mode]
    patches = [(chain, {"positions": "same", **mode, **one})
               for chain, one in zip(chains, settings)]
    expected = theirs(family, x, chains, mode, **told)
    assert relative(ours(family, x, *patches), expected) < TOLERANCE


def test_rows_of_two_prompts_read_the_photo_of_their_own(family):
    x, cfg = dits.noise(family), 3.0
    prompts = {"positive": dits.prompt(family, 3), "negative": dits.prompt(family, 4)}
    chain = dits.photo(family, dits.noise(family, 5), dits.prompt(family, 1),
                       dits.prompt(family, 2))
    found = ours(family, x, (chain, {**REPLACE, "positions": "same"}),
                 negative=prompts["negative"], cfg=cfg)
    rows = [Row(chain.latents[1:], chain.positive), Row(chain.latents[1:], chain.negative)]
    rows += [Row(x, prompts[role], role, [i], own=False, shares=[1.0])
             for i, role in enumerate(prompts)]
    *_, cond, uncond = dit_rows.denoise(dits.model_of(family), dits.name_of(family), rows, SIGMA)
    expected = (x - uncond - cfg * (cond - uncond)) / SIGMA
    assert relative(found, expected) < TOLERANCE
