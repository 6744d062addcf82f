"""The corruptions of CIFAR-10-C-bar and ImageNet-C-bar once more, slowly: see `reference`.

The constants are the published severities. `side` is the shorter one.
"""

import cmath
import math

import numpy as np

from tests.corruptions.reference import gaussian


def per_pixel(image, function):
    """What `function(y, x)` gives, a number or one for each channel, as (C, H, W) or (1, H, W)."""
    height, width = image.shape[1:]
    values = [[np.atleast_1d(function(y, x)) for x in range(width)] for y in range(height)]
    return np.array(values, float).transpose(2, 0, 1)


def noise_of(uniform, height, width, amplitude):
    side = min(height, width)
    phases = [0.0] * (height * width)
    for i, share in enumerate(uniform):
        phases[i] = phases[-1 - i] = 2 * math.pi * float(share)
    spectrum = np.zeros((height, width), complex)
    for y in range(height):
        for x in range(width):
            r = math.hypot((y - height / 2) / height * side, (x - width / 2) / width * side)
            turned = (y + height // 2) % height, (x + width // 2) % width
            spectrum[turned] = amplitude(r) * cmath.exp(1j * phases[y * width + x])
    noise = np.fft.ifft2(spectrum).real
    return noise / noise.std()


def blue_noise_sample(image, draws, severity):
    noise = noise_of(draws[0][0], *image.shape[1:], lambda r: r)
    return np.where(noise > severity * 3 / 10 - 2.5, image, 0)


def brownish_noise(image, draws, severity):
    noise = [noise_of(part, *image.shape[1:], lambda r: 1 / (r**2 + 1)) for part in draws[0]]
    return image + severity * 64 / 10 * np.stack(noise)


def checkerboard_cutout(image, draws, severity):
    side = min(image.shape[1:])
    angle, cell = 2 * math.pi * float(draws[0][0]), (0.1 + 0.15 * float(draws[0][1])) * side
    board = draws[1].reshape(32, 32)

    def grey(y, x):
        down = (math.cos(angle) * y + math.sin(angle) * x) / cell
        along = (-math.sin(angle) * y + math.cos(angle) * x) / cell
        return int(down % 2) == int(along % 2) and board[int(down) % 32, int(along) % 32] < severity / 10

    return np.where(per_pixel(image, grey), 128, image)


def star(y, x, row, column, rays, power):
    dy, dx = y - row, x - column
    place = (math.atan2(dx, dy) + math.pi) / (2 * math.pi) * len(rays)
    first = int(place)
    part = place - first
    one, other = rays[first % len(rays)], rays[(first + 1) % len(rays)]
    ratio = (one + part * (other - one)) ** 2 / (dy**2 + dx**2 + 1e-4)
    return min((1 - (part - 0.5) ** 2) * ratio**power, 1)


def sparkles(image, draws, severity):
    height, width = image.shape[1:]
    radius = severity * 0.1 / 10 * min(height, width)
    result = image.astype(float)
    for (row, column, share), normal in zip(draws[0].astype(float), draws[1].astype(float), strict=True):
        rays = [max(1, radius + 0.25 * radius * n) for n in normal[: 50 + int(150 * share)]]
        light = per_pixel(image, lambda y, x: star(y, x, row * height, column * width, rays, 1))  # noqa: B023
        result += light * (255 - result)
    return result


def inverse_sparkles(image, draws, severity):
    height, width = image.shape[1:]
    radius = 0.25 * min(height, width)
    row, column, share = draws[0].astype(float)
    rays = [radius + 0.25 * radius * n for n in draws[1].astype(float)[: 50 + int(150 * share)]]
    row, column = (0.25 + 0.5 * row) * height, (0.25 + 0.5 * column) * width
    light = per_pixel(image, lambda y, x: star(y, x, row, column, rays, severity * 65 / 10 / 50))
    return 255 + light * (image.astype(float) - 255)


def antialiased(row, column, last_row, last_column):
    """Zingl's walk along a line: (row, column, share) of what it covers."""
    along, down = abs(last_column - column), abs(last_row - row)
    right, below = (1 if column < last_column else -1), (1 if row < last_row else -1)
    error, length = along - down, math.hypot(along, down)
    while True:
        yield row, column, 1 - abs(error - along + down) / length
        before, old_column = error, column
        if 2 * before >= -along:
            if column == last_column:
                return
            if before + down < length:
                yield row + below, column, 1 - abs(before + down) / length
            error -= down
            column += right
        if 2 * before <= down:
            if row == last_row:
                return
            if along - before < length:
                yield row, old_column + right, 1 - abs(along - before) / length
            error += along
            row += below


def lines(image, draws, severity):
    height, width = image.shape[1:]
    side = min(height, width)
    angle, variation, *others = draws[0].astype(float)
    result = image.astype(float)
    for i in range(int(severity / 10 * side)):
        row, column, turn = others[3 * i : 3 * i + 3]
        row, column = row * height, column * width
        direction = 2 * math.pi * angle + 2 * math.pi * (0.1 + 0.9 * variation) * (turn - 0.5)
        down, along = math.cos(direction) * side, math.sin(direction) * side
        ends = int(row - down), int(column - along), int(row + down), int(column + along)
        for y, x, share in antialiased(*ends):
            if 0 <= y < height and 0 <= x < width:
                result[:, y, x] = (1 - share) * result[:, y, x] + share * 128
        result = np.floor(result + 1e-6)
    return result


def spline(distance):
    """The cubic B-spline."""
    x = np.abs(distance)
    return np.where(x < 1, 2 / 3 - x**2 + x**3 / 2, np.where(x < 2, (2 - x) ** 3 / 6, 0))


def spline_matrix(positions, size):
    """(P, size): what a spline at these positions takes of each coefficient, edges mirrored."""
    result = spline(positions[:, None] - np.arange(size))
    for i in (1, 2):
        result[:, i] += spline(positions + i)
        result[:, size - 1 - i] += spline(positions - (size - 1 + i))
    return result


def circular_motion_blur(image, draws, severity):
    height, width = image.shape[1:]
    coefficients = [
        np.linalg.solve(
            spline_matrix(np.arange(height), height),
            np.linalg.solve(spline_matrix(np.arange(width), width), plane.T).T,
        )
        for plane in image / 255
    ]
    y, x = (part.ravel() for part in np.mgrid[:height, :width])
    total, weights = np.zeros(image.shape), 0
    for i in range(21):
        t = 2 * i / 20 - 1
        angle = math.radians(t * severity * 15 / 10)
        rows = math.cos(angle) * (y - (height - 1) / 2) + math.sin(angle) * (x - (width - 1) / 2) + (height - 1) / 2
        columns = -math.sin(angle) * (y - (height - 1) / 2) + math.cos(angle) * (x - (width - 1) / 2) + (width - 1) / 2
        inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
        of_rows, of_columns = spline_matrix(rows, height), spline_matrix(columns, width)
        turned = [((of_rows @ plane) * of_columns).sum(1) * inside for plane in coefficients]
        total += math.exp(-2 * t**2) * np.reshape(turned, image.shape)
        weights += math.exp(-2 * t**2)
    return total / weights * 255


def read(image, y, x):
    """Bilinear, black outside; (C,)."""
    height, width = image.shape[1:]
    low_y, low_x = math.floor(y), math.floor(x)
    total = np.zeros(len(image))
    for row, of_row in ((low_y, 1 - y + low_y), (low_y + 1, y - low_y)):
        for column, of_column in ((low_x, 1 - x + low_x), (low_x + 1, x - low_x)):
            if 0 <= row < height and 0 <= column < width:
                total += image[:, row, column] * of_row * of_column
    return total


def pinch_and_twirl(image, draws, severity):
    height, width = image.shape[1:]
    side = min(height, width) // 3
    radius = side / 2
    result = image.astype(float)
    for i in range(height // side):
        for j in range(width // side):
            angle = severity * math.pi / 2 / 10 * (1 if draws[0][i, j] < 0.5 else -1)
            centre_y, centre_x = i * side + radius, j * side + radius
            for y in range(i * side, (i + 1) * side):
                for x in range(j * side, (j + 1) * side):
                    dy, dx = y - centre_y, x - centre_x
                    distance = math.hypot(dy, dx)
                    if distance > radius or round(distance, 3) == 0:
                        continue
                    d = distance / radius
                    pinch = math.sin(math.pi / 2 * d) ** -(severity * 0.4 / 10 + 0.1)
                    a = angle * (1 - d) ** 2
                    dy, dx = dy * pinch, dx * pinch
                    at = dy * math.cos(a) - dx * math.sin(a), dy * math.sin(a) + dx * math.cos(a)
                    result[:, y, x] = read(image, centre_y + at[0], centre_x + at[1])
    return result


def ripple(image, draws, severity):
    side = min(image.shape[1:])
    shares = draws[0].astype(float)

    def moved(place, length, phase):
        return place + severity * 0.025 / 10 * side * math.sin(
            2 * math.pi * place / ((0.1 + 0.2 * length) * side) + 2 * math.pi * phase
        )

    return per_pixel(image, lambda y, x: read(image, moved(y, shares[0], shares[2]), moved(x, shares[1], shares[3])))


def transverse_chromatic_abberation(image, draws, severity):
    result = np.zeros(image.shape)
    for i, channel in enumerate(np.argsort(draws[0])):
        plane = image[channel].astype(float)
        for _ in range(2):  # rows, then columns
            size = len(plane)
            enlarged = round(size * (1 + i * severity * 0.5 / 10 / 2))
            positions = np.arange(enlarged) * (size - 1) / (enlarged - 1)
            edge = (enlarged - size) // 2
            plane = (spline_matrix(positions, size)[edge : edge + size] @ plane).T
        result[channel] = np.floor(plane + 0.5)
    return result


def single_frequency_greyscale(image, draws, severity):
    one, other, order, phase = draws[0].astype(float)
    one = math.pi * (2 * one - 1)
    other = abs(one) * (2 * other - 1)
    along, down = (other, one) if order < 0.5 else (one, other)
    wave = per_pixel(image, lambda y, x: math.sin(x * along + y * down + 2 * math.pi * phase))
    return image + severity * 196 / 10 * wave


def cocentric_sine_waves(image, draws, severity):
    height, width = image.shape[1:]
    column, row, waves, amplitude, ring = draws[0].astype(float)
    tenth = min(height, width) / 10

    def ramp(y, x):
        dy, dx = y - row * height, x - column * width
        wobble = amplitude * tenth * math.sin(10 * waves * math.atan2(dx, dy))
        return (math.hypot(dy, dx) + wobble) % (ring * tenth) / (ring * tenth) - 0.5

    return image + severity * 128 / 10 * per_pixel(image, ramp)


def perlin_noise(image, draws, severity):
    cell = 32 * min(image.shape[1:]) / 224
    keys, *coordinates = draws[0]
    permutation = sorted(range(256), key=lambda i: keys[i])
    slopes = [(int(a) % 512 - 256, int(b) % 512 - 256) for a, b in zip(*coordinates, strict=True)]
    slopes = [(a / math.hypot(a, b), b / math.hypot(a, b)) for a, b in slopes]

    def noise(u, v):
        total = 0
        for i in (math.floor(u), math.floor(u) + 1):
            for j in (math.floor(v), math.floor(v) + 1):
                slope = slopes[permutation[(permutation[i % 256] + j) % 256]]
                weight = 1
                for distance in (abs(u - i), abs(v - j)):
                    weight *= 1 - distance**2 * (3 - 2 * distance)
                total += weight * (slope[0] * (u - i) + slope[1] * (v - j))
        return 1.5 * total

    def pattern(y, x):
        turbulence = sum(abs(noise(f * y / cell, f * x / cell)) / f for f in (1, 2, 4, 8, 16))
        return min(max(0.5 * turbulence + 0.5, 0), 1)

    share = severity * 0.5 / 10
    return (1 - share) * image + 255 * share * per_pixel(image, pattern)


def plasma_noise(image, draws, severity):
    time, iterations, sharpness, scale = draws[0].astype(float)
    time, iterations, sharpness = 6 * math.pi * time, 4 + int(3 * iterations), 0.5 + 0.5 * sharpness
    scale = (0.075 + 0.125 * scale) * min(image.shape[1:])

    def colours(y, x):
        y, x, frequency, slowing, fade = y / scale, x / scale, 1, 1, 1
        for _ in range(iterations):
            a = math.cos(y * frequency + time / slowing) / fade
            b = math.sin(x * frequency + time / slowing) / fade
            x, y = x + a - 0.3 * b, y + b + 0.3 * a
            frequency, slowing, fade = frequency * 1.93, slowing * 1.15, fade * (2.25 - sharpness)
        return math.sin(x - time), math.sin((x + y + math.sin(time)) / 2), math.sin(y + time)

    strength = severity * 64 / 10
    return (1 - strength / 255) * image + strength * per_pixel(image, colours)


def refracted(normal, density):
    """Where light from above goes in a medium with this surface: down, along, deeper."""
    a, b, c = normal
    if c >= 1 - 1e-3:
        return 0, 0, 1
    angle = math.asin(math.sin(math.acos(c)) / density)
    aside = -b / math.hypot(a, b), a / math.hypot(a, b), 0
    across = b * aside[2] - c * aside[1], c * aside[0] - a * aside[2], a * aside[1] - b * aside[0]
    return [math.cos(angle) * n + math.sin(angle) * t for n, t in zip(normal, across, strict=True)]


def caustic_refraction(image, draws, severity):
    height, width = image.shape[1:]
    side = min(height, width)
    time, size = draws[0].astype(float)
    time, size = 0.5 + 1.5 * time, (0.75 + 0.5 * size) * side

    def light(y, x):
        p, q = y / size % 1 * 2 * math.pi - 250, x / size % 1 * 2 * math.pi - 250
        i, j, total = p, q, 1
        for n in range(5):
            t = time * (1 - 3.5 / (n + 1))
            i, j = (
                p + math.cos(t - i) + math.sin(t + j),
                q + math.sin(t - j) + math.cos(t + i),
            )
            total += 1 / math.hypot(p / (math.sin(i + t) / 0.005), q / (math.cos(j + t) / 0.005))
        return min(abs(1.17 - (total / 5) ** 1.4) ** 8, 1)

    surface = np.pad(gaussian(per_pixel(image, light)[0], 1, "symmetric"), 1)
    scaled = image / 255

    def seen(y, x):
        down = surface[y + 2, x + 1] - surface[y, x + 1]
        along = surface[y + 1, x + 2] - surface[y + 1, x]
        length = math.hypot(down, along, 1)
        bent = refracted((down / length, along / length, 1 / length), 4)
        dy, dx = (round(part * severity * 0.5 * side / 10, 3) for part in bent[:2])
        return (read(scaled, y + dy, x + dx) + (down - along) * severity * 2 / 10).clip(0, 1)

    return per_pixel(image, seen) * 255
