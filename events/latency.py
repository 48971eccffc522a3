"""How long statements took, as counts in buckets that can be added up.

Four buckets for each doubling from 64 µs on, so a quantile read from them is at most a quarter too
high. Counting needs no table and no search: it reads the time's highest bits, as HdrHistogram does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mypy_extensions import i64

# Below this many microseconds, everything is bucket 0: a round trip on one machine takes longer.
FLOOR_BITS: Final = 6
# 2 bits below the highest one: four buckets for each doubling.
STEP_BITS: Final = 2
# Two minutes and more (2**27 µs) are the last bucket.
CEILING_BITS: Final = 27
BUCKETS: Final = ((CEILING_BITS - FLOOR_BITS) << STEP_BITS) + 2


def bucket_of(microseconds: i64) -> i64:
    """The bucket that a time belongs to: 0 to BUCKETS - 1."""
    if microseconds < 1 << FLOOR_BITS:
        return 0
    if microseconds >= 1 << CEILING_BITS:
        return BUCKETS - 1
    # Compiled, this is faster than asking for bit_length.
    bits: i64 = FLOOR_BITS
    rest = microseconds >> FLOOR_BITS
    while rest > 0:
        rest >>= 1
        bits += 1
    step = (microseconds >> (bits - 1 - STEP_BITS)) & ((1 << STEP_BITS) - 1)
    return ((bits - 1 - FLOOR_BITS) << STEP_BITS) + step + 1


def upper_bound(bucket: int) -> float:
    """Microseconds that everything in the bucket is below; infinite for the last one."""
    if bucket >= BUCKETS - 1:
        return float("inf")
    if bucket <= 0:
        return float(1 << FLOOR_BITS)
    octave, step = divmod(bucket - 1, 1 << STEP_BITS)
    return float((1 << (octave + FLOOR_BITS)) * ((1 << STEP_BITS) + step + 1) >> STEP_BITS)


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Seconds that `share` (0 to 1) of what was counted stays below; None when nothing was.

    The bucket's upper bound, so never too low; for the last bucket its lower one.
    """
    total = sum(counts.values())
    if total == 0:
        return None
    wanted = share * total
    seen = 0
    bucket = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted:
            break
    return upper_bound(min(bucket, BUCKETS - 2)) / 1e6
