"""The corruptions once more, slowly: one image, numpy in float64, written from the definitions and sharing no code.

Every function takes one uint8 image (C, H, W), that image's random draws as the library draws them, and the constants;
it gives grey levels, which the caller clips and truncates.
"""

import colorsys
import io
import math

import numpy as np
from PIL import Image


def gaussian_noise(image, draws, sigma):
    return (image / 255 + draws[0] * sigma) * 255


def speckle_noise(image, draws, sigma):
    x = image / 255
    return (x + x * draws[0] * sigma) * 255


def impulse_noise(image, draws, amount):
    result = image.astype(float)
    result[draws[0] < amount] = 0
    result[draws[0] < amount / 2] = 255
    return result


def poisson_levels(level, photons):
    """Probabilities of the 256 grey levels that a level turns into."""
    rate = level / 255 * photons
    result = np.zeros(256)
    probability, counted = math.exp(-rate), 0.0
    for count in range(2000):
        result[min(255, int(min(count / photons, 1) * 255))] += probability
        counted += probability
        probability *= rate / (count + 1)
    assert counted > 1 - 1e-9
    return result


def convolve_1d(x, weights, axis, mode):
    reach = len(weights) // 2
    pad = [(reach, reach) if a == axis % x.ndim else (0, 0) for a in range(x.ndim)]
    padded = np.pad(x, pad, mode=mode)
    return sum(w * padded.take(np.arange(x.shape[axis]) + i, axis) for i, w in enumerate(weights))


def gaussian(x, sigma, mode="edge", truncate=4.0):
    if sigma == 0:
        return np.array(x, float)
    reach = int(truncate * sigma + 0.5)
    weights = np.array([math.exp(-t * t / (2 * sigma * sigma)) for t in range(-reach, reach + 1)])
    weights /= weights.sum()
    return convolve_1d(convolve_1d(np.array(x, float), weights, -2, mode), weights, -1, mode)


def gaussian_blur(image, draws, sigma):
    return gaussian(image / 255, sigma) * 255


def defocus_blur(image, draws, constants):
    radius, alias = constants
    if radius <= 8:
        line, reach = np.arange(-8, 9), 1
    else:
        line, reach = np.arange(-radius, radius + 1), 2
    x, y = np.meshgrid(line, line)
    disk = ((x**2 + y**2) <= radius**2).astype(float)
    disk /= disk.sum()
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * alias**2))
    weights /= weights.sum()
    kernel = convolve_1d(convolve_1d(disk, weights, 0, "reflect"), weights, 1, "reflect")
    half = len(line) // 2
    padded = np.pad(image / 255, ((0, 0), (half, half), (half, half)), mode="reflect")
    height, width = image.shape[1:]
    total = np.zeros(image.shape)
    for i in range(len(line)):
        for j in range(len(line)):
            if kernel[i, j]:
                total += kernel[i, j] * padded[:, i : i + height, j : j + width]
    return total * 255


def glass_blur(image, draws, constants):
    sigma, delta, rounds = constants
    x = np.floor(np.clip(gaussian(image / 255, sigma) * 255 + 1e-3, 0, 255))
    height, width = image.shape[1:]
    for i in range(rounds):
        steps = np.floor(draws[0][:, i] * np.float32(2 * delta)).astype(int) - delta
        for h in range(height - delta, delta, -1):
            for w in range(width - delta, delta, -1):
                x[:, h, w] = x[:, h + steps[0, h, w], w + steps[1, h, w]]
    return gaussian(x / 255, sigma) * 255


def motion(x, radius, sigma, degrees):
    """ImageMagick's, on (C, H, W) levels; gives floored levels."""
    taps = 2 * math.ceil(radius) + 1
    kernel = np.array([math.exp(-i * i / (2 * sigma * sigma)) for i in range(taps)])
    kernel /= kernel.sum()
    height, width = x.shape[1:]
    total = np.zeros(x.shape)
    for i in range(taps):
        dy = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        rows = np.clip(np.arange(height) + dy, 0, height - 1)
        columns = np.clip(np.arange(width) + dx, 0, width - 1)
        total += kernel[i] * x[:, rows][:, :, columns]
    return np.floor(total + 1e-3)


def motion_blur(image, draws, constants):
    return motion(image.astype(float), *constants, float(draws[0]))


def zoomed(x, factor):
    """Zoom into the centre linearly, of (C, H, W)."""
    for axis in (1, 2):
        size = x.shape[axis]
        crop = math.ceil(size / factor)
        enlarged = round(crop * factor)
        first, trim = (size - crop) // 2, (enlarged - size) // 2
        positions = np.arange(enlarged)[trim : trim + size] * (crop - 1) / (enlarged - 1)
        weights = np.array([np.interp(positions, range(crop), row) for row in np.eye(crop)])
        x = np.moveaxis(np.tensordot(x.take(range(first, first + crop), axis), weights, (axis, 0)), -1, axis)
    return x


def zoom_blur(image, draws, constants):
    stop, step = constants
    x = image / 255
    factors = np.arange(1, stop, step)
    return (x + sum(zoomed(x, z) for z in factors)) / (len(factors) + 1) * 255


def snow(image, draws, constants):
    location, scale, zoom, threshold, radius, sigma, mix = constants
    x = image / 255
    layer = zoomed((draws[0] * scale + location)[None], zoom)
    layer[layer < threshold] = 0
    layer = np.floor(np.clip(layer, 0, 1) * 255)
    layer = motion(layer, radius, sigma, float(draws[1])) / 255
    luma = np.tensordot((0.299, 0.587, 0.114), x, 1)
    x = mix * x + (1 - mix) * np.maximum(x, luma * 1.5 + 0.5)
    return (x + layer + layer[:, ::-1, ::-1]) * 255


def linear_resize(picture, factor):
    """Half-pixel centres, no antialiasing, edges replicated; (H, W, 3) levels, rounded."""
    result = picture.astype(float)
    for axis in (0, 1):
        size = result.shape[axis]
        at = np.clip((np.arange(int(size * factor)) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (at - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        result = result.take(low, axis) * (1 - share) + result.take(high, axis) * share
    return np.round(result)


def frost(image, draws, constants, pictures):
    of_image, of_frost, factor = constants
    picture = linear_resize(pictures[int(draws[0][0] * len(pictures))], factor)
    height, width = image.shape[1:]
    top = int(draws[0][1] * (picture.shape[0] - height))
    left = int(draws[0][2] * (picture.shape[1] - width))
    return of_image * image + of_frost * picture[top : top + height, left : left + width].transpose(2, 0, 1)


def plasma(uniform, decay):
    side = len(uniform)
    heights = np.zeros((side, side))
    step, wibble = side, 100.0

    def displaced(y, x, neighbours):
        mean = sum(heights[a % side, b % side] for a, b in neighbours) / 4
        heights[y, x] = mean + wibble * (2 * float(uniform[y, x]) - 1) * wibble

    while step >= 2:
        half = step // 2
        for y in range(half, side, step):
            for x in range(half, side, step):
                displaced(y, x, [(y + a, x + b) for a in (-half, half) for b in (-half, half)])
        for y in range(0, side, half):
            for x in range(half if (y // half) % 2 == 0 else 0, side, step):
                displaced(y, x, [(y - half, x), (y + half, x), (y, x - half), (y, x + half)])
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(image, draws, constants):
    amount, decay = constants
    x = image / 255
    height, width = image.shape[1:]
    return (x + amount * plasma(draws[0], decay)[:height, :width]) * x.max() / (x.max() + amount) * 255


def per_pixel_hsv(image, change):
    result = np.zeros(image.shape)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            result[:, y, x] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*(image[:, y, x] / 255))))
    return result * 255


def brightness(image, draws, added):
    return per_pixel_hsv(image, lambda h, s, v: (h, s, min(v + added, 1)))


def saturate(image, draws, constants):
    factor, added = constants
    return per_pixel_hsv(image, lambda h, s, v: (h, min(s * factor + added, 1), v))


def contrast(image, draws, factor):
    x = image / 255
    means = x.mean((1, 2), keepdims=True)
    return ((x - means) * factor + means) * 255


def bilinear(x, at_y, at_x, border):
    height, width = x.shape[1:]
    low_y, low_x = np.floor(at_y).astype(int), np.floor(at_x).astype(int)
    share_y, share_x = at_y - low_y, at_x - low_x

    def read(rows, columns):
        return x[:, border(rows, height), border(columns, width)]

    upper = read(low_y, low_x) * (1 - share_x) + read(low_y, low_x + 1) * share_x
    lower = read(low_y + 1, low_x) * (1 - share_x) + read(low_y + 1, low_x + 1) * share_x
    return upper * (1 - share_y) + lower * share_y


def mirrored(index, size):
    """cb|abc"""
    index = np.abs(index) % (2 * size - 2)
    return np.where(index >= size, 2 * size - 2 - index, index)


def reflected(index, size):
    """ba|abc"""
    index = np.where(index < 0, -1 - index, index) % (2 * size)
    return np.where(index >= size, 2 * size - 1 - index, index)


def elastic_transform(image, draws, constants):
    alpha, sigma, affine = constants
    height, width = image.shape[1:]
    centre, square = np.array([width // 2, height // 2]), min(height, width) // 3
    before = np.array([centre + square, [centre[0] + square, centre[1] - square], centre - square], float)
    after = before + draws[0].astype(float) * affine
    matrix = np.linalg.solve(np.c_[after, np.ones(3)], before)  # from where a pixel is to where it was
    y, x = np.mgrid[:height, :width]
    was = np.stack((x, y, np.ones_like(x)), -1) @ matrix
    result = bilinear(image / 255, was[..., 1], was[..., 0], mirrored)
    if alpha:
        dx, dy = (gaussian(field, sigma, "symmetric", 3) * alpha for field in draws[1].astype(float))
        result = bilinear(result, y + dy, x + dx, reflected)
    return result * 255


def as_picture(image):
    return Image.fromarray(image.transpose(1, 2, 0) if len(image) == 3 else image[0])


def from_picture(picture):
    array = np.array(picture)
    return array.transpose(2, 0, 1) if array.ndim == 3 else array[None]


def pixelate(image, draws, factor):
    height, width = image.shape[1:]
    small = as_picture(image).resize((int(width * factor), int(height * factor)), Image.Resampling.BOX)
    return from_picture(small.resize((width, height), Image.Resampling.BOX))


def jpeg_compression(image, draws, quality):
    file = io.BytesIO()
    as_picture(image).save(file, "JPEG", quality=quality)
    return from_picture(Image.open(file))


def canny(grey, low, high):
    height, width = grey.shape
    padded = np.pad(grey.astype(int), 1, mode="edge")
    dx, dy = np.zeros((2, height, width), int)
    for i, smooth in ((-1, 1), (0, 2), (1, 1)):
        for j, slope in ((-1, -1), (1, 1)):
            dx += smooth * slope * padded[1 + i : 1 + i + height, 1 + j : 1 + j + width]
            dy += smooth * slope * padded[1 + j : 1 + j + height, 1 + i : 1 + i + width]
    norm = np.pad(np.abs(dx) + np.abs(dy), 1)
    candidates, queue = set(), []
    for y in range(height):
        for x in range(width):
            m = norm[y + 1, x + 1]
            if m <= low:
                continue
            gx, gy = int(dx[y, x]), int(dy[y, x])
            if abs(gy) < math.tan(math.pi / 8) * abs(gx):
                keep = m > norm[y + 1, x] and m >= norm[y + 1, x + 2]
            elif abs(gy) > math.tan(3 * math.pi / 8) * abs(gx):
                keep = m > norm[y, x + 1] and m >= norm[y + 2, x + 1]
            else:
                s = -1 if (gx < 0) != (gy < 0) else 1
                keep = m > norm[y, x + 1 - s] and m > norm[y + 2, x + 1 + s]
            if keep:
                candidates.add((y, x))
                if m > high:
                    queue.append((y, x))
    edges = np.zeros(grey.shape, bool)
    while queue:
        y, x = queue.pop()
        if (y, x) in candidates and not edges[y, x]:
            edges[y, x] = True
            queue += [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return edges


def chamfer(edges):
    """To the nearest edge; a way with |dx| >= |dy| is made of straight, knight's and diagonal moves."""
    height, width = edges.shape
    y, x = np.mgrid[:height, :width]
    result = np.full(edges.shape, 1e6)
    for edge_y, edge_x in np.argwhere(edges):
        dy, dx = np.abs(y - edge_y), np.abs(x - edge_x)
        long, short = np.maximum(dx, dy), np.minimum(dx, dy)
        flat = (long - 2 * short) + short * 2.1969  # 2 * short <= long
        steep = (long - short) * 2.1969 + (2 * short - long) * 1.4
        result = np.minimum(result, np.where(2 * short <= long, flat, steep))
    return result


def equalize(levels):
    counts = np.bincount(levels.ravel(), minlength=256)
    first = int(np.flatnonzero(counts)[0])
    if counts[first] == levels.size:
        return levels
    table, total = np.zeros(256, int), 0
    for level in range(first + 1, 256):
        total += counts[level]
        table[level] = round(total * 255 / (levels.size - counts[first]))
    return table[levels]


def neighbourhood(x, kernel):
    return sum(
        kernel[i][j] * np.pad(x, 1, mode="reflect")[i : i + x.shape[0], j : j + x.shape[1]]
        for i in range(3)
        for j in range(3)
    )


def spatter(image, draws, constants):
    location, scale, sigma, threshold, strength, mud = constants
    x = image / 255
    liquid = gaussian(draws[0].astype(float) * scale + location, sigma)
    if mud:
        mask = gaussian(np.where(liquid > threshold, 1.0, 0.0), strength)
        mask[mask < 0.8] = 0
        return (x * (1 - mask) + np.array((63, 42, 20)).reshape(3, 1, 1) / 255 * mask) * 255
    liquid[liquid < threshold] = 0
    liquid = (liquid * 255).astype(int) % 256
    ones = ((1, 1, 1),) * 3
    distance = np.minimum(chamfer(canny(liquid, 50, 150)), 20)
    distance = np.floor(neighbourhood(distance, ones) / 9 + 1e-6).astype(int)
    embossed = np.clip(neighbourhood(equalize(distance), ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))), 0, 255)
    mask = liquid * np.round(neighbourhood(embossed, ones) / 9)
    if mask.max() > 0:
        mask = mask / mask.max() * strength
    return (x + mask * np.array((175, 238, 238)).reshape(3, 1, 1) / 255) * 255
