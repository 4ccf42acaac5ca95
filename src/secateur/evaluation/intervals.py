"""What a measured mean or share may be off by: 95% intervals that hold for few items too."""

import numpy as np
from scipy.stats import t

FEW = 1_000  # pairs: of fewer, tables say what their numbers may be off by
REPEATS = 1_000  # times that items are drawn anew
Z = 1.96  # standard errors that a 95% interval reaches to each side


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` items (Wilson 1927): within 0 and 1, wide where all are hits.

    For share p, n items and z = 1.96: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    if count < 1:
        return 0.0, 1.0
    middle = share + Z**2 / (2 * count)
    margin = Z * (share * (1 - share) / count + Z**2 / (4 * count**2)) ** 0.5
    scale = 1 + Z**2 / count
    return max(0.0, (middle - margin) / scale), min(1.0, (middle + margin) / scale)


def mean_error(values: np.ndarray) -> float | None:
    """Return half of the 95% interval of a mean of independent values (Student 1908); None: one says nothing of it."""
    if len(values) < 2:
        return None
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)


def bootstrap_interval(values: np.ndarray, *, repeats: int = REPEATS, seed: int = 0) -> tuple[float, float]:
    """Return the 95% interval of the mean of one value an item, the items drawn anew with replacement.

    For two models' difference, give their values' difference item by item.
    """
    generator = np.random.default_rng(seed)
    draws = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(repeats)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
