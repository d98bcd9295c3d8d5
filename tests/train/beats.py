"""Small signals of a made-up machine: a beat, its echo and some noise; a bad one misses the echo."""

from pathlib import Path

import numpy as np


def beat(seed: int, *, length: int = 50, channels: int = 1, bad: bool = False) -> np.ndarray:
    """float32 (channels, length); each channel has its own size."""
    rng = np.random.default_rng(seed)
    moments = np.arange(length) / length
    first = np.exp(-(((moments - 0.2 - 0.02 * rng.random()) / 0.05) ** 2))
    second = np.exp(-(((moments - 0.7 - 0.02 * rng.random()) / 0.08) ** 2))
    shape = (1 + 0.2 * rng.random()) * first + (0.0 if bad else 0.6) * second
    sizes = 10.0 ** np.arange(channels)[:, None]
    return (sizes * (shape + rng.normal(0, 0.02, (channels, length)))).astype(np.float32)


def folder(path: Path, n: int, *, first: int = 0, bad: bool = False, channels: int = 1) -> Path:
    """Writes n signals that differ, every other one as .npy and as .csv."""
    path.mkdir(parents=True)
    for index in range(n):
        values = beat(first + index, bad=bad, channels=channels)
        if index % 2:
            np.save(path / f"{index:03}.npy", values)
        else:
            np.savetxt(path / f"{index:03}.csv", values.T, delimiter=",", header="volts", comments="")
    return path
