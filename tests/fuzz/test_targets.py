"""Every fuzz target with a fixed budget, driven by hypothesis, which shrinks what it finds; `make fuzz` goes on."""

from __future__ import annotations

import gc
import tracemalloc
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.source import ByteRandom
from tests.fuzz.targets import CASES, CASES_OTHERWISE, MEMORY_BYTES_MAX, TARGETS

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_gets_more_than_a_refusal(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=CASES.get(name, CASES_OTHERWISE), suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of(st.integers(0, 2**64 - 1).map(Random), st.binary(max_size=400).map(ByteRandom)))
    def cases(rng: Random) -> None:
        target(rng)

    cases()


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_much_memory(name: str) -> None:
    target = TARGETS[name]
    target(Random(0))  # what is made once
    tracemalloc.start()
    try:
        for seed in range(20):
            gc.collect()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            target(Random(seed))
            assert tracemalloc.get_traced_memory()[1] - before < MEMORY_BYTES_MAX, f"seed {seed}"
    finally:
        tracemalloc.stop()
