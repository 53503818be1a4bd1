"""How close leases come to the ideal with slow and killed workers: the table of docs/design/many-machines.md.

    python tests/benchmarks/simulate_leases.py

A discrete-event simulation of the policy in ``harness/runs/leases.py``, with its chunk sizes and lease.  The cost of an
image is log-normal (mean 0.5 s, sigma of its logarithm 0.5 or 1), a worker needs 30 s to start, slow ones work at half
speed, killed ones come back after 60 s and start anew.  What a killed worker had not written in the last 30 s is done
again, by whoever takes its chunk when the lease is over.  The ideal is the start and the work over the sum of speeds.
"""

import heapq
import sys
from dataclasses import dataclass

import numpy as np

from ovss.harness.runs.leases import chunk_size
from ovss.harness.runs.presence import LEASE_SECONDS

START_SECONDS, BACK_SECONDS, FLUSH_SECONDS, CLAIM_SECONDS = 30.0, 60.0, 30.0, 0.02
MEAN_SECONDS = 0.5


@dataclass(frozen=True)
class Case:
    """A fleet: share of slow workers, kills for each worker and hour, spread of the images' costs."""

    title: str
    slow: float = 0.0
    kills_per_hour: float = 0.0
    sigma: float = 0.5


CASES = (
    Case("equal machines"),
    Case("5 % half as fast", slow=0.05),
    Case("5 % half as fast, a kill an hour each", slow=0.05, kills_per_hour=1.0),
    Case("costs spread more (sigma 1)", sigma=1.0),
)


def makespan(case: Case, images: int, workers: int, seed: int) -> float:
    """Seconds until the last image is stored, over the ideal."""
    rng = np.random.default_rng(seed)
    costs = rng.lognormal(np.log(MEAN_SECONDS) - case.sigma**2 / 2, case.sigma, images)
    speeds = np.where(rng.random(workers) < case.slow, 0.5, 1.0)
    size = chunk_size(images, workers)
    todo = [costs[k : k + size] for k in range(0, images, size)][::-1]
    free_later: list[tuple[float, int, np.ndarray]] = []
    number = 0
    events = [(START_SECONDS, w) for w in range(workers)]
    heapq.heapify(events)
    kill_at = _kills(rng, case, workers)
    end = 0.0
    while events:
        now, w = heapq.heappop(events)
        if now >= kill_at[w]:
            kill_at[w] = now + BACK_SECONDS + START_SECONDS + _pause(rng, case)
            heapq.heappush(events, (now + BACK_SECONDS + START_SECONDS, w))
            continue
        while free_later and free_later[0][0] <= now:
            todo.append(heapq.heappop(free_later)[2])
        if not todo:
            if free_later:  # it waits for chunks of the killed
                heapq.heappush(events, (max(now + 1.0, free_later[0][0]), w))
            continue
        chunk = todo.pop()
        done = now + CLAIM_SECONDS + np.cumsum(chunk) / speeds[w]
        if done[-1] <= kill_at[w]:
            end = max(end, float(done[-1]))
            heapq.heappush(events, (float(done[-1]), w))
            continue
        stored = int(np.searchsorted(done, kill_at[w] - FLUSH_SECONDS))
        number += 1
        heapq.heappush(free_later, (kill_at[w] + LEASE_SECONDS, number, chunk[stored:]))
        heapq.heappush(events, (kill_at[w], w))
    return end / (START_SECONDS + float(costs.sum()) / float(speeds.sum()))


def _pause(rng: np.random.Generator, case: Case) -> float:
    return float(rng.exponential(3600 / case.kills_per_hour)) if case.kills_per_hour else np.inf


def _kills(rng: np.random.Generator, case: Case, workers: int) -> list[float]:
    return [_pause(rng, case) for _ in range(workers)]


def main() -> None:
    """Print the table."""
    counts = (1, 8, 64, 512)
    sys.stdout.write(
        f"| case | images | {' | '.join(f'{w} workers' for w in counts)} |\n|---|---|{'---|' * len(counts)}\n"
    )
    for case in CASES:
        for images in (5_000, 50_000, 1_000_000):
            seeds = range(3 if images < 1_000_000 else 1)
            cells = [float(np.mean([makespan(case, images, w, seed) for seed in seeds])) for w in counts]
            sys.stdout.write(f"| {case.title} | {images:,} | {' | '.join(f'{c:.2f}' for c in cells)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
