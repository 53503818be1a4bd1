"""A random stream that gives the same numbers on every machine and with every library version.

NumPy does not promise stable streams for ``Generator`` methods across versions, and the scenes of ``shapes`` are frozen
by checksum.  So the stream is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) in counter form: draw ``i`` of a stream
is ``mix(seed + i * gamma)``.  Only 64-bit integer arithmetic and one exact scaling to [0, 1) are used.
"""

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF

Array = NDArray[np.float64]


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Stream:
    """Random numbers that depend on ``key`` only.

    >>> Stream(1, 2).integer(0, 100) == Stream(1, 2).integer(0, 100)
    True
    """

    def __init__(self, *key: int) -> None:
        seed = 0
        for part in key:
            seed = int(_mix(np.array([(seed + part + _GAMMA) & _MASK], np.uint64))[0])
        self._seed = seed
        self._drawn = 0

    def uniforms(self, *shape: int) -> Array:
        """Uniform numbers in [0, 1) of the given shape, float64."""
        count = int(np.prod(shape))
        index = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64)
        self._drawn += count
        bits = _mix(np.uint64(self._seed) + index * np.uint64(_GAMMA))
        return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def integer(self, low: int, high: int) -> int:
        """One integer in [low, high)."""
        return low + int(self.uniform() * (high - low))

    def coin(self, probability: float) -> bool:
        """True with the given probability."""
        return self.uniform() < probability

    def distinct(self, population: int, count: int) -> list[int]:
        """``count`` different integers below ``population``, in random order."""
        left = list(range(population))
        return [left.pop(self.integer(0, len(left))) for _ in range(count)]
