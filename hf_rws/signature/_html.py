"""What a notebook shows of a signature: its facts, and the curve of accuracy over scale if that was measured."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hf_rws.signature.config import SignatureConfig

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 360, 180, 44, 12, 16, 32  # of the drawing, and its margins
_CURVES = (("ta", "clean (TA)", "#1f77b4"), ("ra", "corrupted (RA)", "#d62728"))


def page(name: str, config: SignatureConfig, nbytes: int, metrics: Mapping[str, Any]) -> str:
    """HTML of a signature; names from elsewhere are escaped.

    Args:
        name: What it is called.
        config: Its config.
        nbytes: Size of its weight file.
        metrics: Those of its metrics that are well-formed (`cards.checked_metrics`).
    """
    base, corruption, method = config.base_model, config.corruption, config.method
    severity = "" if corruption.severity is None else f", severity {corruption.severity}"
    facts = {
        "corruption": ", ".join(corruption.names) + severity,
        "base": f"{base.repo_id + ', ' if base.repo_id else ''}{base.architecture}, {base.num_classes} classes",
        "made by": f"{method.kind}, {method.num_layers} layers",
        "size": f"{nbytes:,} bytes",
        "recommended scale": f"{config.recommended_scale:g}",
    }
    for who, label in (("standard", "base"), ("patched", "patched")):
        known = metrics.get(who, {})
        if known:
            facts[f"accuracy, {label}"] = ", ".join(f"{what.upper()} {100 * known[what]:.1f} %" for what in known)
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    curve = metrics.get("scale_curve", ())
    drawing = _curve(curve) if len(curve) > 1 else ""
    return f"<div><b>{escape(name)}</b>: a robust weight signature<table>{rows}</table>{drawing}</div>"


def _curve(points: Sequence[Mapping[str, float]]) -> str:
    """An SVG of accuracy in percent over scale."""
    scales = [point["scale"] for point in points]
    low, high = min(scales), max(scales)
    span = (high - low) or 1.0

    def at(scale: float, accuracy: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * (scale - low) / span
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - accuracy)
        return f"{x:.1f},{y:.1f}"

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    lines: list[str] = []
    for share in (0.0, 0.5, 1.0):
        y = at(low, share).split(",")[1]
        lines.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}" stroke="#ccc"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y}" text-anchor="end" dy="4">{100 * share:.0f} %</text>')
    for scale in dict.fromkeys((low, high)):
        x = at(scale, 0).split(",")[0]
        lines.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{scale:g}</text>')
    lines.append(f'<text x="{(_LEFT + right) / 2}" y="{bottom + 26}" text-anchor="middle">scale</text>')
    for number, (key, label, colour) in enumerate(_CURVES):
        path = " ".join(at(point["scale"], point[key]) for point in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(
            f'<text x="{right}" y="{_TOP + 12 * (number + 1)}" text-anchor="end" fill="{colour}">{label}</text>'
        )
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg {size} font-size="10" font-family="sans-serif">{"".join(lines)}</svg>'
