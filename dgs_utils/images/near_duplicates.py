"""Pairs of images that show one picture: re-encoded, resized, mirrored, shifted or cropped by a tenth or so.

Candidates are nearest neighbours by a descriptor of 64 numbers, in both orientations at once; each candidate is then
laid over its partner (shift and scale of both axes by Gauss-Newton steps, as Lucas and Kanade) and counts where grey
levels agree, or edges correlate. So a picture in other colours is still the same. What is mostly flat, such as a
silhouette on the sky, a digit, or clothes on black, is alike without being a copy, so its grey levels have to agree:
copies of drawings are found where they are re-encoded or mirrored, and can be missed where they are cropped or shifted.

The descriptor is the strength of edges in eight directions and the grey levels, each in 3 × 3 fields without a rim of
three pixels in 32, whitened: directions in which images differ little count as much as others. A mirrored image has
the same even half of it, and the odd half with the other sign, so one product of each half compares both orientations.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from dgs_utils.images.pixels import LUMINANCE
from dgs_utils.runtime.seeds import numpy_rng

SIDE = 32  # pixels that images are compared at
RIM = 3  # of these, on each side, that a shifted copy may have filled with anything
FIELDS, DIRECTIONS = 3, 8
DIMENSIONS = 64
SAMPLE, PATTERNS = 10_000, 1_000  # images, and patterns of coloured noise, that whitening is fitted to
SIMILARITY = 0.48  # cosine from which on a pair is a candidate
NEIGHBOURS = 12  # candidates an image at the most
SHARE = 0.08  # of the contrast, at the most, that an image differs by that was only saved again,
SAVED, RATIO = 2.0, 0.4  # and grey levels at the most, or share of what the next candidate differs by, if any
LIKENESS = 0.91  # correlation of edges from which on two aligned images are one picture
RESIDUAL = 3.5  # grey levels (root mean square) between images whose grey levels agree
FLAT, SLOPE = 0.2, 2.0  # share of pixels with smaller slopes (grey levels a pixel) from which on an image is flat
PLAIN = 0.035  # share of pixels without any slope, in the median image, from which on all images count as drawings
MIN_CONTRAST = 2.0  # standard deviation of grey levels below which an image shows nothing that could be recognised
STEPS = ((0, 1, 0.8, 6), (0, 1, 0.9, 4), (0, 3, 0.96, 2), (1, 3, 0.96, 2))  # half or full size, steps; to go on: least
# correlation, and of drawings, as most are alike, the greatest residual, as a multiple of `RESIDUAL`
ROWS, COLUMNS, PEAK, PAIRS = 512, 1024, 64, 2048  # at once: images, others, nearest of these in a cache; candidates
_alone = Lock()  # of those that set the number of torch's threads for a while


def find_pairs(images: np.ndarray, others: np.ndarray | None = None) -> pd.DataFrame:
    """Find the pairs of images that show one picture, within a set or between two sets.

    Args:
        images: squares of one size, uint8 (N, S, S, 3).
        others: squares of any one size, uint8 (M, T, T, 3); None compares ``images`` with each other.

    Returns:
        One row a pair, ordered: first and second (indices; within a set first < second), mirrored (bool), difference
        (grey levels, root mean square of 8 × 8 areas, unmoved), same (bool: it is so small that the image was at most
        saved again, resized, mirrored or made grey), likeness (correlation of the aligned edges, up to 1). An image has
        at most `NEIGHBOURS` rows as first, and of a set with itself also as second. Images of one colour have none.

    >>> from sklearn.datasets import load_digits
    >>> scans = np.repeat(load_digits().images[:20, :, :, None] * 15, 3, axis=3).astype(np.uint8)
    >>> find_pairs(scans, scans[[3, 7], :, ::-1])[["first", "second", "mirrored", "same"]]
       first  second  mirrored  same
    0      3       0      True  True
    1      7       1      True  True
    """
    sets = [images] if others is None else [images, others]
    levels, described = zip(*(_describe(squares) for squares in sets), strict=True)
    codes = _whiten(described)
    candidates = _candidates(codes[0], codes[-1], others is None)
    sample = torch.cat([full[_sample(len(full))] for _, full in levels])
    drawings = bool(_flat_shares(sample.float(), 1.0).median() >= PLAIN)
    candidates = _compare_unmoved(levels[0][0], levels[-1][0], candidates)
    frames = _in_threads(lambda block: _verify(levels[0], levels[-1], block, drawings), candidates.split(PAIRS))
    kinds = {"first": int, "second": int, "mirrored": bool, "difference": float, "same": bool, "likeness": float}
    pairs = pd.DataFrame(torch.cat(frames or [torch.empty(0, 6)]).cpu().numpy(), columns=[*kinds]).astype(kinds)
    if others is None:
        pairs["first"], pairs["second"] = np.sort(pairs[["first", "second"]].to_numpy(), axis=1).T
        pairs["same"] = pairs.groupby(["first", "second"])["same"].transform("any")
    pairs = pairs.sort_values(["first", "second", "difference"], kind="stable")
    return pairs.drop_duplicates(["first", "second"], ignore_index=True)


def group_pairs(pairs: pd.DataFrame, count: int) -> np.ndarray:
    """Return the group of each of ``count`` images, int64 (count,): connected ones share the smallest of their indices.

    >>> group_pairs(pd.DataFrame({"first": [1, 2], "second": [2, 4]}), 5).tolist()
    [0, 1, 1, 3, 1]
    """
    links = coo_array((np.ones(len(pairs)), (pairs["first"], pairs["second"])), (count, count))
    groups = connected_components(links, directed=False)[1]
    return np.unique(groups, return_index=True)[1][groups]


def contrast(images: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the grey levels of each square, uint8 (N, S, S, 3): float64 (N,)."""
    blocks, weights = np.split(images, range(ROWS, len(images), ROWS)), np.array(LUMINANCE)
    return np.concatenate([(block @ weights).std((1, 2)) for block in blocks])


# ---- Candidates ------------------------------------------------------------------------------------------------------

def _describe(images: np.ndarray) -> tuple[list[Tensor], Tensor]:
    """Return smooth grey levels at half and full size, uint8 (N, 1, 16, 16) and (N, 1, 32, 32), descriptors (N, 81)."""
    rows = max(1, ROWS * SIDE**2 // max(images.shape[1], SIDE) ** 2)
    parts = _in_threads(lambda start: _describe_block(images[start : start + rows]), range(0, len(images), rows))
    half, full, described = map(torch.cat, zip(*parts, strict=True))
    return [half, full], described


def _describe_block(images: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    colours = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().div_(255)
    if colours.shape[-1] != SIDE:
        colours = F.interpolate(colours, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    grey = torch.einsum("nchw,c->nhw", colours, colours.new_tensor(LUMINANCE))
    smooth = F.avg_pool2d(grey, 3, 1)[:, RIM - 2 : 2 - RIM, RIM - 2 : 2 - RIM]
    across, down = smooth[:, 1:-1, 2:] - smooth[:, 1:-1, :-2], smooth[:, 2:, 1:-1] - smooth[:, :-2, 1:-1]
    strength = torch.hypot(across, down) + 1e-3
    turns = [2 * math.pi * k / DIRECTIONS for k in range(DIRECTIONS)]
    edges = torch.stack([(across * math.cos(a) + down * math.sin(a)).clamp(min=0) ** 2 / strength for a in turns], 1)
    edges = _fields(edges).clamp(min=0).sqrt()
    edges = edges / edges.flatten(1).norm(dim=1).clamp(min=1e-6)[:, None, None, None]
    light = _fields(grey[:, None, RIM:-RIM, RIM:-RIM])
    full = grey[:, None] * 255
    half, full = _smooth(F.avg_pool2d(full, 2)), _smooth(full)
    return half.round().to(torch.uint8), full.round().to(torch.uint8), torch.cat([edges, light], 1).flatten(1)


def _fields(maps: Tensor) -> Tensor:
    """Return weighted means of maps (N, C, H, H) in fields (N, C, 3, 3) that overlap."""
    side = maps.shape[-1]
    position = (torch.arange(side, device=maps.device) + 0.5) / side * FIELDS - 0.5
    weights = torch.exp(-2 * (position[None] - torch.arange(FIELDS, device=maps.device)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    return weights @ maps @ weights.T


def _halves(described: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of descriptors that stay, and that change sign, where images are mirrored."""
    maps = described.view(len(described), -1, FIELDS, FIELDS)
    order = [*((DIRECTIONS // 2 - k) % DIRECTIONS for k in range(DIRECTIONS)), DIRECTIONS]
    mirrored = maps[:, order].flip(-1).flatten(1)
    return (described + mirrored) / 2, (described - mirrored) / 2


def _whiten(described: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    """Return the even and odd halves of all sets' descriptors, whitened, each image's of length 1 together.

    The patterns keep few images from being as different from each other as is possible.
    """
    sample = [part[_sample(len(part))] for part in described]
    fitted = torch.cat([*sample, _describe(_patterns())[1]])
    means, axes, values = [], [], []
    for half in _halves(fitted):
        means.append(half.mean(0))
        centred = (half - means[-1]).double().cpu()
        spread, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
        axes.append(directions.to(half))
        values.append(spread.to(half))
    least = torch.cat(values).sort(descending=True)[0][DIMENSIONS - 1]
    codes = []
    for part in described:
        halves = [((half - mean) @ directions)[:, spread >= least] / spread[spread >= least].sqrt()
                  for half, mean, directions, spread in zip(_halves(part), (means[0], 0), axes, values, strict=True)]
        length = torch.cat(halves, 1).norm(dim=1, keepdim=True).clamp(min=1e-6)
        codes.append((halves[0] / length, halves[1] / length))
    return codes


def _sample(count: int) -> np.ndarray:
    """Return at most `SAMPLE` of the indices below ``count``, at even steps."""
    return np.unique(np.linspace(0, count - 1, SAMPLE).astype(int))


def _patterns() -> np.ndarray:
    """Return patterns of coloured noise with the spectrum of photographs, uint8 (1000, 32, 32, 3)."""
    rng, steps = numpy_rng("near duplicates", "patterns"), np.fft.fftfreq(SIDE)
    noise = rng.normal(size=(PATTERNS, 3, SIDE, SIDE))
    noise[:, 1:] = 0.9 * noise[:, :1] + 0.4 * noise[:, 1:]
    falling = np.maximum(np.hypot(steps[:, None], steps), 1 / SIDE) ** -1.3
    waves = np.fft.ifft2(np.fft.fft2(noise) * falling).real
    waves = (waves - waves.mean((2, 3), keepdims=True)) / waves.std((2, 3), keepdims=True)
    waves = waves * rng.uniform(25, 70, (PATTERNS, 1, 1, 1)) + rng.uniform(60, 200, (PATTERNS, 1, 1, 1))
    return waves.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _candidates(codes: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], same: bool) -> Tensor:
    """Return rows of first, second, mirrored, int64 (n, 3): the nearest neighbours, up to `NEIGHBOURS` an image."""
    others = tuple(F.pad(half, (0, 0, 0, -len(half) % PEAK)) for half in others)  # a row of zeros is like no image
    return torch.cat(_in_threads(lambda start: _nearest(codes, others, same, start), range(0, len(codes[0]), ROWS)))


def _nearest(codes: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], same: bool, start: int) -> Tensor:
    """Return the rows of `_candidates` of `ROWS` images from ``start`` on."""
    even, odd = (half[start : start + ROWS] for half in codes)
    hits, top = [], even.new_full((len(even), NEIGHBOURS + 1), SIMILARITY)  # one more, as an image is like itself
    for left in range(0, len(others[0]), COLUMNS):
        right = slice(left, left + COLUMNS)
        best = torch.addmm((odd @ others[1][right].T).abs_(), even, others[0][right].T).view(len(even), -1, PEAK)
        peaks = best.amax(2)
        top = torch.cat([top, peaks], 1).topk(NEIGHBOURS + 1)[0]
        row, group = (peaks >= top[:, -1:]).nonzero(as_tuple=True)  # few, found in one pass
        near = best[row, group]
        hit, column = (near >= top[row, -1:]).nonzero(as_tuple=True)
        row, column, near = row[hit], left + group[hit] * PEAK + column, near[hit, column]
        hits.append(torch.stack([row, column, near], 1).double())
    block = torch.cat(hits)
    block = block[block[:, 0] + start != block[:, 1]] if same else block
    block = block[(-block[:, 2]).argsort(stable=True)]
    block = block[block[:, 0].argsort(stable=True)]
    row, column = block[:, :2].long().T
    counts = torch.bincount(row, minlength=1)
    rank = torch.arange(len(block), device=block.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    row, column = row[rank < NEIGHBOURS], column[rank < NEIGHBOURS]
    return torch.stack([row + start, column, (odd[row] * others[1][column]).sum(1) < 0], 1)


def _in_threads(function: Callable, blocks: Iterable) -> list:
    """Return a function's value for each block, from as many threads of one core as torch has threads."""
    with _alone, ThreadPoolExecutor(
            threads := torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            return list(pool.map(function, blocks))
        finally:
            pool.shutdown()  # a thread that begins late sets the number, too
            torch.set_num_threads(threads)


def _compare_unmoved(levels: Tensor, others: Tensor, candidates: Tensor) -> Tensor:
    """Return `_candidates`, how far they differ, and whether the first was only saved again, float64 (n, 5)."""
    coarse = [F.avg_pool2d(images.float(), 2)[:, 0] for images in (levels, others)]

    def compare(block: Tensor) -> Tensor:
        first, second = (images[block[:, column]] for column, images in enumerate(coarse))
        first = torch.where(block[:, 2, None, None] == 1, first.flip(-1), first)
        spreads = [(v - v.mean((1, 2), True)).square().mean((1, 2)).sqrt() for v in (first, second)]
        return torch.stack([(first - second).square().mean((1, 2)).sqrt(), torch.minimum(*spreads)])

    difference, contrasts = torch.cat(_in_threads(compare, candidates.split(PAIRS)), 1)
    first = candidates[:, 0]
    nearest = difference.new_full((2, len(levels)), math.inf)
    nearest[0].scatter_reduce_(0, first, difference, "amin")
    is_nearest = difference == nearest[0, first]
    nearest[1].scatter_reduce_(0, first, difference.masked_fill(is_nearest, math.inf), "amin")
    same = (difference <= SAVED) | (is_nearest & (difference <= RATIO * nearest[1, first]))
    same &= (difference <= SHARE * contrasts) & (contrasts >= MIN_CONTRAST)
    return torch.cat([candidates.double(), torch.stack([difference, same], 1)], 1)


# ---- Alignment -------------------------------------------------------------------------------------------------------

def _verify(levels: list[Tensor], others: list[Tensor], candidates: Tensor, drawings: bool) -> Tensor:
    """Return the candidates of `_compare_unmoved` that show one picture, and their likeness, float64 (n, 6)."""
    fit = torch.tensor([1.0, 1, 0, 0], device=candidates.device).repeat(len(candidates), 1)
    for level, steps, least, most in STEPS:
        first, second = (images[level][ends.long()].float()
                         for images, ends in zip((levels, others), candidates[:, :2].T, strict=True))
        first = torch.where(candidates[:, 2, None, None, None] == 1, first.flip(-1), first)
        fit, correlation, contrasts, residual = _align(first, second, fit, steps)
        kept = (correlation >= least) & (contrasts >= MIN_CONTRAST)
        kept = (kept & ((residual <= most * RESIDUAL) | (not drawings))) | (candidates[:, 4] == 1)
        candidates, fit = candidates[kept], fit[kept]
    first, second, residual = first[kept], second[kept], residual[kept]
    likeness = _edge_correlation(first, second, fit)
    flat = torch.ones_like(likeness, dtype=torch.bool) if drawings else _flat_shares(second, SLOPE) >= FLAT
    copies = (candidates[:, 4] == 1) | (residual <= RESIDUAL) | ((likeness >= LIKENESS) & ~flat)
    return torch.cat([candidates, likeness[:, None].double()], 1)[copies]


def _flat_shares(images: Tensor, slope: float) -> Tensor:
    """Return the share of pixels within the rim whose slopes are smaller, of grey levels (N, 1, S, S): (N,)."""
    return (_inner(_slopes(images)).square().sum(1) < slope**2).float().mean(1)


def _smooth(images: Tensor) -> Tensor:
    kernel = images.new_tensor([1.0, 2.0, 1.0]) / 4
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), torch.outer(kernel, kernel)[None, None])


def _slopes(images: Tensor) -> Tensor:
    """Return the differences across and down of images (N, 1, S, S): (N, 2, S, S), 0 at the borders."""
    across, down = images[..., 2:] - images[..., :-2], images[..., 2:, :] - images[..., :-2, :]
    return torch.cat([F.pad(across, (1, 1)), F.pad(down, (0, 0, 1, 1))], 1) / 2


def _inner(maps: Tensor) -> Tensor:
    """Return the pixels of maps (N, C, S, S) within the rim: (N, C, P)."""
    rim = -(-RIM * maps.shape[-1] // SIDE)
    return maps[..., rim:-rim, rim:-rim].flatten(2)


def _read(maps: Tensor, fit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what maps (N, C, S, S) have at the inner pixels after the fit, where it has any, and these pixels.

    Returns:
        values (N, C, P), inside (N, P) 0 or 1, and the inner pixels as x and y from -1 to 1, (2, P).
    """
    centre = (torch.arange(maps.shape[-1], device=maps.device) + 0.5) / maps.shape[-1] * 2 - 1
    y, x = (_inner(axis[None, None])[0, 0] for axis in torch.meshgrid(centre, centre, indexing="ij"))
    at = torch.stack([fit[:, :1] * x + fit[:, 2:3], fit[:, 1:2] * y + fit[:, 3:]], -1)
    values = F.grid_sample(maps, at[:, None], align_corners=False, padding_mode="border")[:, :, 0]
    return values, (at.abs() < 1).all(-1).to(maps), torch.stack([x, y])


def _edge_correlation(first: Tensor, second: Tensor, fit: Tensor) -> Tensor:
    """Return the correlation of edges of aligned images: what tells ships in front of one horizon apart, (N,)."""
    ours, inside, _ = _read(_slopes(first), fit)
    ours, theirs = ours * inside[:, None], _inner(_slopes(second)) * inside[:, None]
    energies = ours.square().sum((1, 2)) * theirs.square().sum((1, 2))
    return (ours * theirs).sum((1, 2)) / energies.sqrt().clamp(1e-6)


def _align(first: Tensor, second: Tensor, fit: Tensor, steps: int) -> list[Tensor]:
    """Lay images over others by Gauss-Newton steps, and return the best fit and how well it fits.

    Args:
        first, second: grey levels, (N, 1, S, S).
        fit: scales of both axes and shifts in half images, (N, 4): second(x, y) is compared with
            first(fit₀ x + fit₂, fit₁ y + fit₃), within the rim of second and where first has pixels.
        steps: number of steps.

    Returns:
        Fit (N, 4), correlation (N,), -1 where less than half is covered, the smaller contrast of both (N,), and the
        root mean square of the difference (N,).
    """
    maps, goal = torch.cat([first, _slopes(first)], 1), _inner(second)[:, 0]
    best = [fit.clone(), first.new_full((len(first),), -1.0), *first.new_zeros(2, len(first))]
    for step in range(steps + 1):
        values, inside, pixels = _read(maps, fit)
        count = inside.sum(1, keepdim=True).clamp(min=1)
        ours, theirs = ((v - (v * inside).sum(1, keepdim=True) / count) * inside for v in (values[:, 0], goal))
        spreads = [v.square().sum(1, keepdim=True).div(count).sqrt() for v in (ours, theirs)]
        correlation = (ours * theirs).sum(1) / (count * spreads[0] * spreads[1])[:, 0].clamp(1e-6)
        correlation = torch.where(inside.mean(1) >= 0.5, correlation, -1)
        better = correlation > best[1]
        residual = ((values[:, 0] - goal) * inside).square().sum(1).div(count[:, 0]).sqrt()
        for part, new in zip(best, (fit, correlation, torch.minimum(*spreads)[:, 0], residual), strict=True):
            part[better] = new[better]
        if step == steps:
            break
        slopes = torch.cat([values[:, 1:] * pixels, values[:, 1:]], 1) * (second.shape[-1] / 2) * inside[:, None]
        slopes = slopes - slopes.sum(2, keepdim=True) / count[..., None] * inside[:, None]
        missing = theirs * spreads[0] / spreads[1].clamp(1e-6) - ours
        normal = slopes @ slopes.transpose(1, 2)
        ridge = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1).clamp(1e-3)[:, None, None] * torch.eye(4).to(first)
        fit = fit + torch.linalg.solve(normal + ridge, slopes @ missing[..., None])[..., 0].clamp(-0.15, 0.15)
    return best
