"""Stored features: what packing keeps, where it is put, and what is copied when."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from comfyui_rival.rival_core.chain.features import (
    FeatureCache,
    Prefetch,
    Stored,
    choose_place,
    pack,
    unpack,
)
from comfyui_rival.rival_core.errors import RivalError
from comfyui_rival.rival_core.steering.exemplar import Exemplar

LAYER, OTHER = (("input", 1), 0), (("output", 3), 1)
CPU, META = torch.device("cpu"), torch.device("meta")


def hidden(seed=0, dtype=torch.float32, rows=1):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(-3, 2, 16)[None, :, None]  # tokens of very different sizes
    return (scales * torch.randn(rows, 16, 32, generator=generator)).to(dtype)


def stored(seed=0, eps=True):
    return Stored({LAYER: (pack(hidden(seed), "cached"),)}, torch.ones(1, 4, 2, 2) if eps else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_in_the_models_own_precision_nothing_is_lost(dtype):
    context = hidden(dtype=dtype)
    packed = pack(context, "cached")
    assert torch.equal(unpack(packed), context) and unpack(packed).dtype == dtype
    assert sum(t.nbytes for t in packed) == context.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_int8_is_within_half_a_step_of_each_tokens_largest(dtype):
    context = hidden(dtype=dtype)
    packed = pack(context, "cached_int8")
    back = unpack(packed)
    assert back.dtype == dtype and packed[0].dtype == torch.int8
    assert sum(t.nbytes for t in packed) < 0.6 * context.nbytes
    step = context.float().abs().amax(dim=-1, keepdim=True) / 127
    rounding = 0.5 if dtype == torch.float32 else 0.6  # the scale and the product are rounded, too
    assert ((back.float() - context.float()).abs() <= rounding * step).all()
    drift = (back - context).float().norm(dim=-1) / context.float().norm(dim=-1)
    print(f"int8 storage in {dtype}: {drift.max():.1e} of a token at most")


def test_a_token_of_zeros_stays_so():
    assert not unpack(pack(torch.zeros(1, 4, 8), "cached_int8")).any()


def test_one_row_of_a_batch_does_not_keep_the_others():
    batch = hidden(rows=4)
    (row,) = pack(batch[1:2], "cached")
    assert torch.equal(row, batch[1:2]) and row.untyped_storage().nbytes() == row.nbytes


def test_a_row_counts_only_if_it_has_all_that_is_needed():
    cache = FeatureCache()
    cache.rows[3, "positive"] = stored(eps=False)
    assert cache.find((3, "positive"), frozenset([LAYER]), False)
    assert cache.find((3, "positive"), frozenset(), False)
    assert not cache.find((3, "positive"), frozenset([LAYER, OTHER]), False)
    assert not cache.find((3, "positive"), frozenset([LAYER]), True)
    assert not cache.find((3, "negative"), frozenset(), False)
    assert not cache.find((2, "positive"), frozenset(), False)


def test_another_key_empties_it():
    cache = FeatureCache()
    assert cache.kept_as is None
    for key in (("cached", "a"), ("cached", "b"), ("cached_int8", "b")):
        cache.claim(*key)
        assert not cache.rows and cache.nbytes == 0 and cache.kept_as is None
        cache.rows[3, "positive"] = stored()
        assert cache.nbytes == hidden().nbytes + 16 * 4
        cache.claim(*key)
        assert cache.rows and cache.kept_as == key[0]


def test_the_first_place_with_room_is_taken():
    room = [(META, 100), (CPU, 200)]
    assert choose_place(100, room, "cached", "less") == META
    assert choose_place(101, room, "cached", "less") == CPU
    sentence = r"'cached', which would keep 10\.2 GB.* 1\.0 GB on meta, 2\.0 GB on cpu: choose l"
    with pytest.raises(RivalError, match=sentence):
        choose_place(10_200_000_000, [(META, 10**9), (CPU, 2 * 10**9)], "cached", "less")


def test_all_of_it_moves():
    cache = FeatureCache()
    cache.rows[3, "positive"] = stored()
    cache.move(META)
    assert all(t.device == META for t in cache.rows[3, "positive"].tensors())


def test_on_one_device_nothing_is_copied():
    prefetch, row = Prefetch(CPU), stored()
    prefetch.start([row])
    assert not prefetch.coming
    assert all(a is b for a, b in zip(prefetch.take(row).tensors(), row.tensors()))


class Queue:
    """What a CUDA stream was told."""

    def __init__(self):
        self.waited, self.used = [], []

    def wait_stream(self, other):
        self.waited.append(other)


@pytest.fixture
def streams(monkeypatch):
    """A Prefetch that believes in streams: (it, the current one, the side one)."""
    prefetch, current, side = Prefetch(CPU), Queue(), Queue()
    prefetch.stream = side

    @contextmanager
    def inside(stream):
        assert stream is side
        yield

    monkeypatch.setattr(torch.cuda, "stream", inside)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda t, queue: queue.used.append(t))
    return prefetch, current, side


def test_the_current_stream_waits_for_what_it_takes_and_holds_it(streams):
    prefetch, current, side = streams
    row = stored()
    prefetch.start([row])
    taken = prefetch.take(row)
    assert current.waited == [side] and len(current.used) == len(taken.tensors()) == 2
    assert not prefetch.coming


def test_what_was_not_copied_ahead_is_copied_at_once(streams):
    prefetch, current, _ = streams
    prefetch.start([stored(1)])
    assert torch.equal(prefetch.take(stored(2)).tokens[LAYER][0][0], hidden(2))
    assert not current.waited


def test_what_nobody_took_is_forgotten(streams):
    prefetch, _, _ = streams
    prefetch.start([stored(1)])
    row = stored(2)
    prefetch.start([row])
    assert list(prefetch.coming) == [id(row)]


def test_bad_input():
    with pytest.raises(RivalError, match=r"features is 'disk': choose one of live, cached"):
        Exemplar(None, features="disk")
