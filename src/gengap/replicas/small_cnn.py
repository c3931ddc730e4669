"""The zoo's network on a CPU: gradient and logits, compiled by numba, one image after another.

What one image needs stays in the cache of a core, where torch's convolutions wait for memory: see
tests/benchmarks/train_cnnzoo.py. `weights` is a row of the published matrix, (4970,) float32;
`images` are (N, pixels) float32, square. Activations are flat, channels last; a window of a
convolution is known by its *place*, the offset at which it begins, and what lies in it by the
*reach* from there. Networks that diverge keep their NaNs.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from gengap.collections.cnnzoo import CLASSES, LAYOUT, PARAMETERS
from gengap.replicas.vectors import CHANNELS, add_product, load, store

TILE = 4  # sums that a loop holds in registers at once
TAPS = 9  # of a kernel of 3 x 3
BIAS1, KERNEL1, BIAS2, KERNEL2, BIAS3, KERNEL3, BIAS4, KERNEL4 = [slot.start for slot in LAYOUT]
ONE = np.ones(1, np.float32)

# Sums may be reordered, but NaN and infinity are kept, unlike with all of fastmath.
compiled = njit(
    fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy", cache=True, nogil=True
)


class Dropout(NamedTuple):
    """Inverted dropout for one batch, decided by a hash of each unit's number."""

    scale: np.float32  # of units that are kept
    least: np.uint32  # units are kept whose hash is not below
    key: np.uint32
    stride: np.uint32  # odd


def dropout(rate: float, *seed: int) -> Dropout:
    """Dropout at `rate`; batches of different `seed` have different noise."""
    key, stride = np.random.SeedSequence(seed).generate_state(2)
    return Dropout(np.float32(1 / (1 - rate)), np.uint32(rate * 2**32), key, stride | 1)


class Layer(NamedTuple):
    """A convolution: where it reads, where its weights lie, and what it works with."""

    places: np.ndarray  # of the windows; their number is rounded up to a multiple of TILE with 0s
    reach: np.ndarray  # in the order of a kernel HWIO; rounded up likewise
    units: int  # of the output
    bias: int  # offsets in the weights
    kernel: int
    hidden: np.ndarray  # the output, after activation and dropout
    slope: np.ndarray  # derivative of activation and dropout
    delta: np.ndarray  # gradient of the output
    gradient: np.ndarray  # of the kernel, then of the bias
    transposed: np.ndarray  # the kernel with its output channels before the input's


@compiled
def _layer(side, channels, bias, kernel):
    windows, fan_in = ((side - 1) // 2) ** 2, TAPS * channels
    places = np.zeros(-(-windows // TILE) * TILE, np.intp)
    reach = np.zeros(-(-fan_in // TILE) * TILE, np.intp)
    across = (side - 1) // 2
    for p in range(windows):
        places[p] = (p // across * 2 * side + p % across * 2) * channels
    for k in range(fan_in):
        tap, channel = k // channels, k % channels
        reach[k] = (tap // 3 * side + tap % 3) * channels + channel
    hidden = np.zeros(len(places) * CHANNELS, np.float32)
    gradient = np.zeros((len(reach) + 1) * CHANNELS, np.float32)
    transposed = np.zeros(TAPS * CHANNELS * CHANNELS, np.float32)
    buffers = hidden, hidden.copy(), hidden.copy(), gradient, transposed
    return Layer(places, reach, windows * CHANNELS, bias, kernel, *buffers)


@compiled
def _layers(pixels):
    """The three convolutions on square images of so many pixels."""
    side = round(np.sqrt(pixels))
    second = (side - 1) // 2
    third = (second - 1) // 2
    return (
        _layer(side, 1, BIAS1, KERNEL1),
        _layer(second, CHANNELS, BIAS2, KERNEL2),
        _layer(third, CHANNELS, BIAS3, KERNEL3),
    )


@compiled
def _convolve(source, layer, fan_in, weights):
    """hidden[p] = bias + window p of `source` times the kernel."""
    places, reach, hidden = layer.places, layer.reach, layer.hidden
    for p in range(0, len(places), TILE):
        p0, p1, p2, p3 = places[p], places[p + 1], places[p + 2], places[p + 3]
        bias = load(weights, layer.bias)
        s0, s1, s2, s3 = bias, bias, bias, bias
        for k in range(fan_in):
            row, r = load(weights, layer.kernel + k * CHANNELS), reach[k]
            s0 = add_product(s0, source, p0 + r, row)
            s1 = add_product(s1, source, p1 + r, row)
            s2 = add_product(s2, source, p2 + r, row)
            s3 = add_product(s3, source, p3 + r, row)
        store(hidden, p * CHANNELS, s0)
        store(hidden, (p + 1) * CHANNELS, s1)
        store(hidden, (p + 2) * CHANNELS, s2)
        store(hidden, (p + 3) * CHANNELS, s3)


@compiled
def _add_kernel_gradient(source, layer):
    """gradient[k] += sum over windows p of source[p + k] * delta[p]; its last row, of delta[p].

    Before that delta is multiplied by the layer's slope.
    """
    places, reach, delta, gradient = layer.places, layer.reach, layer.delta, layer.gradient
    for i in range(layer.units):
        delta[i] *= layer.slope[i]
    windows = layer.units // CHANNELS
    for k in range(0, len(reach), TILE):
        r0, r1, r2, r3 = reach[k], reach[k + 1], reach[k + 2], reach[k + 3]
        s0, s1 = load(gradient, k * CHANNELS), load(gradient, (k + 1) * CHANNELS)
        s2, s3 = load(gradient, (k + 2) * CHANNELS), load(gradient, (k + 3) * CHANNELS)
        for p in range(windows):
            row, place = load(delta, p * CHANNELS), places[p]
            s0 = add_product(s0, source, place + r0, row)
            s1 = add_product(s1, source, place + r1, row)
            s2 = add_product(s2, source, place + r2, row)
            s3 = add_product(s3, source, place + r3, row)
        store(gradient, k * CHANNELS, s0)
        store(gradient, (k + 1) * CHANNELS, s1)
        store(gradient, (k + 2) * CHANNELS, s2)
        store(gradient, (k + 3) * CHANNELS, s3)
    total = load(gradient, len(reach) * CHANNELS)
    for p in range(windows):
        total = add_product(total, ONE, 0, load(delta, p * CHANNELS))
    store(gradient, len(reach) * CHANNELS, total)


@compiled
def _propagate(layer, below):
    """below.delta = the gradient of the layer's input, window by window, without its slope."""
    places, reach, delta, transposed = layer.places, layer.reach, layer.delta, layer.transposed
    target = below.delta
    target[:] = 0
    for tap in range(TAPS):
        r = reach[tap * CHANNELS]
        for p in range(0, len(places), TILE):
            p0, p1, p2, p3 = places[p], places[p + 1], places[p + 2], places[p + 3]
            # Windows that only fill a tile have delta 0: they add nothing where they stand.
            first = p * CHANNELS
            row = load(transposed, tap * CHANNELS * CHANNELS)
            s0 = add_product(load(target, p0 + r), delta, first, row)
            s1 = add_product(load(target, p1 + r), delta, first + CHANNELS, row)
            s2 = add_product(load(target, p2 + r), delta, first + 2 * CHANNELS, row)
            s3 = add_product(load(target, p3 + r), delta, first + 3 * CHANNELS, row)
            for c in range(1, CHANNELS):
                row = load(transposed, (tap * CHANNELS + c) * CHANNELS)
                s0 = add_product(s0, delta, first + c, row)
                s1 = add_product(s1, delta, first + CHANNELS + c, row)
                s2 = add_product(s2, delta, first + 2 * CHANNELS + c, row)
                s3 = add_product(s3, delta, first + 3 * CHANNELS + c, row)
            store(target, p3 + r, s3)
            store(target, p2 + r, s2)
            store(target, p1 + r, s1)
            store(target, p0 + r, s0)


@compiled
def _tanh(x):
    """Six terms of Lambert's continued fraction at x / 2, doubled: right to 3e-7, NaN stays."""
    y = np.float32(0.5) * x
    y = np.float32(4.5) if y > np.float32(4.5) else y
    y = np.float32(-4.5) if y < np.float32(-4.5) else y
    q = y * y
    a = y * (np.float32(10395) + q * (np.float32(1260) + q * np.float32(21)))
    b = np.float32(10395) + q * (np.float32(4725) + q * (np.float32(210) + q))
    return np.float32(2) * a * b / (a * a + b * b)


@compiled
def _activate(values, is_tanh):
    for i in range(len(values)):
        rectified = np.float32(0) if values[i] < np.float32(0) else values[i]
        values[i] = _tanh(values[i]) if is_tanh else rectified


@compiled
def _activate_and_drop(values, slope, is_tanh):
    """In place; `slope` is what dropout multiplies with and becomes the derivative of both."""
    if is_tanh:
        for i in range(len(values)):
            t = _tanh(values[i])
            values[i] = t * slope[i]
            slope[i] *= np.float32(1) - t * t
    else:
        for i in range(len(values)):
            slope[i] = np.float32(0) if values[i] <= np.float32(0) else slope[i]
            values[i] *= slope[i]


@compiled
def _hash(number):
    """The last mixing of MurmurHash3 (Austin Appleby, public domain)."""
    h = np.uint32(number)
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
    h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@compiled
def fill_mask(mask, first, noise):
    """What dropout multiplies the units `first`, `first` + 1, ... of a batch with."""
    scale, least, key, stride = noise
    for i in range(len(mask)):
        unit = np.uint32(np.uint32(first + i) * stride)
        mask[i] = scale if _hash(np.uint32(unit + key)) >= least else np.float32(0)


@compiled
def _classify(layer, weights, pooled, logits):
    """The mean over places and the dense layer."""
    windows = layer.units // CHANNELS
    pooled[:] = 0
    for i in range(layer.units):
        pooled[i % CHANNELS] += layer.hidden[i]
    logits[:] = weights[BIAS4:KERNEL4]
    for channel in range(CHANNELS):
        pooled[channel] /= np.float32(windows)
        for label in range(CLASSES):
            logits[label] += pooled[channel] * weights[KERNEL4 + channel * CLASSES + label]


@compiled
def _add_dense_gradient(layer, weights, pooled, error, gradient):
    """Of the dense layer; the last convolution's delta becomes that of its output."""
    windows = layer.units // CHANNELS
    for label in range(CLASSES):
        gradient[BIAS4 + label] += error[label]
    for channel in range(CHANNELS):
        total = np.float32(0)
        for label in range(CLASSES):
            k = KERNEL4 + channel * CLASSES + label
            gradient[k] += pooled[channel] * error[label]
            total += weights[k] * error[label]
        for p in range(windows):
            layer.delta[p * CHANNELS + channel] = total / np.float32(windows)


@compiled
def _to_error(logits, label, count):
    """Logits become the derivative of the mean cross-entropy by them."""
    logits -= logits.max()
    logits[:] = np.exp(logits)
    logits /= logits.sum() * np.float32(count)
    logits[label] -= np.float32(1 / count)


@compiled
def _transpose(layer, weights):
    for tap in range(TAPS):
        block = tap * CHANNELS * CHANNELS
        for i in range(CHANNELS):
            for j in range(CHANNELS):
                from_kernel = weights[layer.kernel + block + j * CHANNELS + i]
                layer.transposed[block + i * CHANNELS + j] = from_kernel


@compiled
def gradient(weights, images, labels, chosen, is_tanh, noise):
    """Of the mean cross-entropy over the images `chosen`, with dropout, by the weights: (4970,)."""
    result = np.zeros(PARAMETERS, np.float32)
    one, two, three = layers = _layers(images.shape[1])
    pooled, logits = np.empty(CHANNELS, np.float32), np.empty(CLASSES, np.float32)
    _transpose(two, weights)
    _transpose(three, weights)
    unit = 0
    for number in chosen:
        source, fan_in = images[number], TAPS
        for layer in layers:
            hidden, slope = layer.hidden[: layer.units], layer.slope[: layer.units]
            _convolve(source, layer, fan_in, weights)
            fill_mask(slope, unit, noise)
            _activate_and_drop(hidden, slope, is_tanh)
            source, fan_in, unit = layer.hidden, TAPS * CHANNELS, unit + layer.units
        _classify(three, weights, pooled, logits)
        _to_error(logits, labels[number], len(chosen))
        _add_dense_gradient(three, weights, pooled, logits, result)
        _add_kernel_gradient(two.hidden, three)
        _propagate(three, two)
        _add_kernel_gradient(one.hidden, two)
        _propagate(two, one)
        _add_kernel_gradient(images[number], one)
    for layer in layers:
        kernel = layer.gradient[: len(layer.gradient) - CHANNELS]
        result[layer.bias : layer.bias + CHANNELS] = layer.gradient[len(kernel) :]
        size = TAPS * CHANNELS if layer.kernel == KERNEL1 else len(kernel)
        result[layer.kernel : layer.kernel + size] = kernel[:size]
    return result


@compiled
def logits(weights, images, is_tanh):
    """Without dropout, (N, 10)."""
    result = np.empty((len(images), CLASSES), np.float32)
    layers = _layers(images.shape[1])
    pooled = np.empty(CHANNELS, np.float32)
    for number in range(len(images)):
        source, fan_in = images[number], TAPS
        for layer in layers:
            _convolve(source, layer, fan_in, weights)
            _activate(layer.hidden[: layer.units], is_tanh)
            source, fan_in = layer.hidden, TAPS * CHANNELS
        _classify(layers[2], weights, pooled, result[number])
    return result
