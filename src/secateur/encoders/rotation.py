"""A rotation behind the pooling, after which the first coordinates of a sentence vector are a sentence vector too.

All D coordinates give the cosines that they gave before; the first d, scaled to unit length, give nearly these. The
matrix is a stock `Dense`, so `SentenceTransformer(..., truncate_dim=128)` and whoever reads an ONNX file only slice.

Of all d axes the principal ones keep most of the products of vectors (Eckart & Young 1936). Two things are added:

- The axes are those of the centred vectors, and the vectors' mean is shared out. Where a model's cosines are all high,
  the mean makes them so: whole among few coordinates it makes the cosines of short vectors higher still, and without it
  they fall to about 0. With as much of it among the first d as these hold of the variance they stay in place.
- The lengths that vectors will be cut to are named. The axes between one length and the next, a block, are turned
  among themselves at random. This changes no cosine of the lengths named and spreads the block's variance evenly, so
  that a bit of each coordinate says as much as any other's (Gong & Lazebnik 2011, where it is called PCA-RR).

Nothing is trained: a length takes two symmetric eigenproblems.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor, nn

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.surgery import make_dense, rebuild

SEED = 0  # of the rotations within blocks


def fit_rotation(vectors: np.ndarray, dimensions: Sequence[int]) -> np.ndarray:
    """Return an orthonormal matrix R, float64 [D, D]: the first d columns of vectors @ R stand for all, d as named.

    `vectors` [n, D] are unit vectors of sentences, n at least D; `dimensions` ascending lengths, each below D.
    """
    moments = measure_moments(vectors)
    generator = np.random.default_rng(SEED)
    placed = np.empty((vectors.shape[1], 0))  # [D, axes so far]
    for length in dimensions:
        placed = np.column_stack([placed, spread(choose_axes(moments, placed, length), generator)])
    return np.column_stack([placed, spread(complement(placed), generator)])


@dataclass(frozen=True)
class Moments:
    """Of vectors: the direction of their mean [D], a unit vector or 0, and their covariance [D, D]."""

    mean: np.ndarray
    covariance: np.ndarray


def measure_moments(vectors: np.ndarray) -> Moments:
    rows = vectors.astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    length = float(np.linalg.norm(mean))
    return Moments(mean / length if length > 1e-6 else np.zeros_like(mean), centred.T @ centred / len(rows))


def choose_axes(moments: Moments, placed: np.ndarray, length: int) -> np.ndarray:
    """Return the axes [D, length - placed] that make the placed ones `length`: principal ones and one for the mean.

    The last is sqrt(a) m + sqrt(1 - a) t: m the direction of the mean outside of all other axes, t a direction in
    which the vectors hardly differ, a such that all `length` axes hold the share of the mean that they hold of the
    variance. Where the others hold that much by themselves, it is one more principal axis.
    """
    free = complement(placed)  # [D, f]
    principal: np.ndarray = free @ order_axes(free.T @ moments.covariance @ free)  # [D, f]
    count = length - placed.shape[1]
    axes = principal[:, : count - 1]
    so_far = np.column_stack([placed, axes])
    share = np.trace(so_far.T @ moments.covariance @ so_far) / max(np.trace(moments.covariance), 1e-30)
    held = float(np.sum((so_far.T @ moments.mean) ** 2))
    outside = moments.mean - so_far @ (so_far.T @ moments.mean)
    left = float(np.linalg.norm(outside))  # left^2 = 1 - held
    if held >= share or left < 1e-6:
        return principal[:, :count]
    a = (share - held) / left**2
    outside /= left
    rest = complement(np.column_stack([so_far, outside]))
    still = rest @ order_axes(rest.T @ moments.covariance @ rest)[:, -1]
    still *= np.sign(outside @ moments.covariance @ still) or 1  # an eigenvector's sign is any
    return np.column_stack([axes, np.sqrt(a) * outside + np.sqrt(1 - a) * still])


def order_axes(covariance: np.ndarray) -> np.ndarray:
    """Return the eigenvectors of a symmetric matrix as columns, the largest eigenvalue's first."""
    descending: np.ndarray = np.linalg.eigh(covariance).eigenvectors[:, ::-1]
    return descending


def find_axes(vectors: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Return the first right singular vectors of a matrix [n, D] as float32 columns [D, count], and the share of its
    squared norm along them.

    Each axis points to where its largest component is positive, so that another computation finds the same.
    """
    wide = vectors.astype(np.float64)
    energies, axes = np.linalg.eigh(wide.T @ wide)  # ascending; of the Gram matrix [D, D]
    axes = axes[:, ::-1][:, :count]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(count)])
    return axes.astype(np.float32), float(energies[::-1][:count].sum() / energies.sum())


def complement(axes: np.ndarray) -> np.ndarray:
    """Return orthonormal columns [D, D - k] at right angles to k orthonormal ones [D, k]."""
    whole: np.ndarray = np.linalg.qr(axes, mode="complete")[0]
    return whole[:, axes.shape[1] :]


def spread(axes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return other axes [D, k] of the same space, turned at random: the variance of each is about their mean."""
    turned: np.ndarray = axes @ np.linalg.qr(generator.standard_normal((axes.shape[1], axes.shape[1])))[0]
    return turned


def rotate_encoder(encoder: TorchEncoder, rotation: np.ndarray) -> TorchEncoder:
    """Return a new encoder whose sentence vector is that of `encoder` times the rotation [D, D]; weights are shared.

    |v R| = |v|, so the matrix may stand before a `Normalize` that comes last, and is put there: a linear `Dense` that
    is there is multiplied by it, else it is a `Dense` of its own, without bias.
    """
    matrix = torch.from_numpy(rotation.T.copy()).float().to(encoder.device)
    modules = list(encoder.model)
    end = len(modules)
    while isinstance(modules[end - 1], Normalize):
        end -= 1
    last = modules[end - 1]
    if isinstance(last, Dense) and is_linear(last):
        return rebuild(encoder, [*modules[: end - 1], merge(matrix, last), *modules[end:]])
    width = len(matrix)
    dense = Dense(width, width, bias=False, activation_function=nn.Identity(), init_weight=matrix)
    return rebuild(encoder, [*modules[:end], dense, *modules[end:]])


def is_linear(dense: Dense) -> bool:
    """Return whether a `Dense` is a matrix and a bias alone, from sentence vector to sentence vector."""
    ends = {dense.module_input_name, dense.module_output_name}
    return (
        isinstance(dense.activation_function, nn.Identity) and not dense.use_residual and ends == {"sentence_embedding"}
    )


def merge(matrix: Tensor, dense: Dense) -> Dense:
    """Return the `Dense` that does what a linear one and then a matrix do: M (W x + b) = (M W) x + M b."""
    bias = None if dense.linear.bias is None else matrix @ dense.linear.bias
    return make_dense(matrix @ dense.linear.weight, bias, nn.Identity())
