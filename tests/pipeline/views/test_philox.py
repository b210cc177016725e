"""Philox against its published vectors and a plain transcription; no two purposes share a word."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.samples import key_hash, key_hashes
from pipeline.views import philox as draws
from pipeline.views.philox import Purpose, below, philox, philox_at, uniform, window_hash

WORD = st.integers(0, 2**32 - 1)
LONG = st.integers(0, 2**64 - 1)


def plain_philox(key, view, seed, block):
    """One block, written down from the paper in Python integers."""
    x = [block, view, seed & 0xFFFFFFFF, seed >> 32]
    k = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(p1 >> 32) ^ x[1] ^ k[0], p1 & 0xFFFFFFFF, (p0 >> 32) ^ x[3] ^ k[1], p0 & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return x


def one(key, view, seed, block):
    return philox(np.array([key], np.uint64), np.array([view], np.uint32), seed, block)[0].tolist()


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_published_vectors(counter, key, words):
    block, view, low, high = (int(word, 16) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in one(k0 | k1 << 32, view, low | high << 32, block)] == words.split()


@given(key=LONG, view=WORD, seed=LONG, block=WORD)
@settings(max_examples=50, deadline=None)
def test_any_counter_equals_the_plain_transcription(key, view, seed, block):
    assert one(key, view, seed, block) == plain_philox(key, view, seed, block)


def test_many_at_once_equal_one_at_a_time(monkeypatch):
    monkeypatch.setattr(draws, "CHUNK", 7)
    key_B, view_B = np.arange(10, dtype=np.uint64) * 0x123456789ABCDEF, np.arange(10, dtype=np.uint32)[::-1]
    together = philox(key_B, view_B, 5, Purpose.CROP.block(), 3)
    singly = [
        [word for number in range(3) for word in one(int(key), int(view), 5, Purpose.CROP.block(number))]
        for key, view in zip(key_B, view_B, strict=True)
    ]
    assert together.tolist() == singly


def test_each_sample_may_have_blocks_of_its_own():
    key_B, view_B = np.arange(4, dtype=np.uint64), np.zeros(4, np.uint32)
    blocks_BN = np.arange(8, dtype=np.uint32).reshape(4, 2)
    words = philox_at(key_B, view_B, 0, blocks_BN)
    assert all((words[i] == philox(key_B[i : i + 1], view_B[:1], 0, 2 * i, 2)[0]).all() for i in range(4))


def test_no_samples_no_words():
    assert philox(np.zeros(0, np.uint64), np.zeros(0, np.uint32), 0, 0, 3).shape == (0, 12)


@given(st.lists(st.tuples(LONG, WORD, LONG, st.sampled_from(Purpose), st.integers(0, 2**16 - 1)), unique=True))
@settings(max_examples=30, deadline=None)
def test_different_draws_have_different_counters_or_keys(draw):
    seen = {(key, view, seed, purpose.block(number)) for key, view, seed, purpose, number in draw}
    assert len(seen) == len(draw)


def test_key_hash_is_eight_bytes_of_blake2b():
    expected = int.from_bytes(hashlib.blake2b("Jagdhund/ß".encode(), digest_size=8).digest(), "little")
    assert key_hash("Jagdhund/ß") == key_hash("Jagdhund/ß".encode()) == expected
    assert key_hashes([b"a", b"b"]).tolist() == [key_hash("a"), key_hash("b")]
    assert window_hash(12) == key_hash("window:12")


def test_uniform_is_below_one_and_even():
    assert uniform(np.array([0, 2**32 - 1], np.uint32)).tolist() == [0.0, 1.0 - 2**-32]
    words = philox(np.arange(20_000, dtype=np.uint64), np.zeros(20_000, np.uint32), 0, 0)
    counts, _ = np.histogram(uniform(words), 64, (0, 1))
    assert np.sum((counts - 1250) ** 2 / 1250) < 110  # chi-square of 63 degrees: 99.98 %


@given(word=WORD, limit=st.integers(1, 2**31))
@settings(max_examples=50, deadline=None)
def test_below_is_the_exact_share(word, limit):
    assert below(np.array([word], np.uint32), limit)[0] == word * limit >> 32 < limit
