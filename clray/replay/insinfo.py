"""How much an instruction tells by its tags: rare tags tell more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def insinfo(tags: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    """InsInfo of each instruction, in nats: the sum over its distinct tags g of ln(N / f(g)).

    N is the number of instructions, f(g) how many of them carry g (InsCL, arXiv 2403.11435, section 3). Zero for an
    instruction without tags, and for one whose tags all carry.
    """
    distinct = [sorted(set(row)) for row in tags]
    counts = Counter(tag for row in distinct for tag in row)
    return np.array([math.fsum(math.log(len(distinct) / counts[tag]) for tag in row) for row in distinct], np.float64)
