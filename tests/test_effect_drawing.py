"""Effects in images: the scale, the effect map, the chart, and the table beside it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from elemental.images.effect_chart import RankedEffect, draw_effect_chart, format_effects
from elemental.images.effect_map_drawing import EffectMap, EffectRow, draw_effect_map
from elemental.images.effect_scale import COLOURS, EffectScale, format_effect, format_share, scale_for
from elemental.images.grid_drawing import PAPER

BLOCKS = ("BASE", "IN00", "IN01", "M00", "OUT00", "OUT01")
ROWS = [
    EffectRow("TE", {"BASE": 0.5}, 0.5),
    EffectRow("attn1.to_q", {"IN01": 20.0, "M00": 0.0, "OUT00": 0.0001}, 20.0),
    EffectRow("attn2.to_k", {"IN01": 0.02, "OUT00": 2.0}),
]


def count(image: Image.Image, colour: tuple[int, ...]) -> int:
    return int((np.asarray(image) == colour).all(axis=2).sum())


def test_the_scale_is_logarithmic_and_has_round_ticks() -> None:
    scale = EffectScale(0.01, 10.0)
    assert [scale.position(effect) for effect in (0.0, 0.01, 0.1, 1.0, 10.0, 99.0)] == pytest.approx(
        [0, 0, 1 / 3, 2 / 3, 1, 1]
    )
    assert scale.ticks() == [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    assert EffectScale(0.5, 6.0).ticks() == [0.5, 1.0, 2.0, 5.0]
    assert (scale.colour(0.001), scale.colour(10.0)) == (COLOURS[0], COLOURS[-1])
    assert scale.colour(10**-0.5) == COLOURS[5]


def test_the_scale_fits_what_it_shows() -> None:
    assert scale_for([0.0, 20.0, 0.5]) == EffectScale(0.5, 20.0)
    assert scale_for([20.0, 0.0001]) == EffectScale(0.03, 20.0, clipped=True)
    assert scale_for([5.0]) == EffectScale(0.5, 5.0)
    assert scale_for([]) == scale_for([0.0]) == EffectScale(0.01, 1.0)


def test_steps_of_the_colours_are_even_and_grow_darker() -> None:
    linear = np.array(COLOURS) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    cones = np.cbrt(
        linear @ np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]).T
    )
    lab = cones @ np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45059], [0.02590, 0.78277, -0.80868]]).T
    steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
    assert steps.max() / steps.min() < 1.3
    assert np.diff(lab[:, 0]).max() < -0.05


@pytest.mark.parametrize(
    ("effect", "text"),
    [(0, "0"), (0.004, "<0.01"), (0.045, "0.04"), (0.999, "1.0"), (3.24, "3.2"), (9.96, "10"), (112.4, "112")],
)
def test_effects_are_written_short(effect: float, text: str) -> None:
    assert format_effect(effect) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (0.0001, "<0.1 %"), (0.021, "2.1 %"), (0.0997, "10 %"), (1, "100 %")]
)
def test_shares_are_written_short(share: float, text: str) -> None:
    assert format_share(share) == text


def test_each_cell_has_the_colour_of_its_effect() -> None:
    effects = EffectMap(BLOCKS, ROWS, {}, "effects")
    image = draw_effect_map(effects)
    cell = 46 * 28
    assert count(image, effects.scale.colour(2.0)) == pytest.approx(cell, abs=60)  # the legend has a little of each
    assert count(image, COLOURS[0]) == pytest.approx(2 * cell, abs=60)  # 0.0001 and 0.02
    assert count(image, (208, 206, 198)) == 2 * (46 + 26)  # the outline of what has no effect
    pixels = np.asarray(image)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == PAPER).all()


def test_bars_are_the_totals() -> None:
    without = draw_effect_map(EffectMap(BLOCKS, ROWS, {}, "effects"))
    totals = {"BASE": 0.5, "IN01": 20.0, "OUT00": 10.0}
    image = draw_effect_map(EffectMap(BLOCKS, ROWS, totals, "effects"))
    assert image.height > without.height
    more = count(image, COLOURS[-1]) - count(without, COLOURS[-1])
    assert more == 46 * 96  # the largest bar
    ten = EffectMap(BLOCKS, ROWS, totals, "effects").scale.colour(10.0)
    assert count(image, ten) - count(without, ten) == 46 * 49


@pytest.mark.parametrize("effects", [{}, {"IN00": 0.0}, {"IN00": 3.0}, dict.fromkeys(BLOCKS, 1e-9)])
def test_maps_with_hardly_anything_are_drawn(effects: dict[str, float]) -> None:
    rows = [EffectRow("a" * 90, effects, 0.0)] if effects else []
    assert draw_effect_map(EffectMap(BLOCKS, rows, effects, "x" * 300, "y " * 300)).width < 2000


EFFECTS = [
    RankedEffect("IN01", "attn1.to_q", 5.0, 0.02),
    RankedEffect("OUT05", 'a,"b"', 20.0, 0.3, 15.0),
    RankedEffect("M00", "", 20.0, 0.25),
]


def test_the_table_of_effects_has_the_largest_first() -> None:
    assert format_effects(EFFECTS).decode("utf-8-sig").split("\r\n") == [
        "rank,block,element,effect,share_percent,true_effect",
        '1,OUT05,"a,""b""",20.0000,30.000,15.0000',
        "2,M00,,20.0000,25.000,",
        "3,IN01,attn1.to_q,5.0000,2.000,",
        "",
    ]
    assert format_effects([]).decode("utf-8-sig").count("\n") == 1


def test_the_chart_of_effects_has_bars_and_marks() -> None:
    pixels = np.asarray(draw_effect_chart(EFFECTS, title="what does most"))
    assert pixels.shape[1] == 1000
    bars = (pixels == (74, 116, 196)).all(axis=2)[:, 120:]  # beside the key
    lengths = [int(row.sum()) for row in bars if row.any()]
    assert min(lengths) / max(lengths) == pytest.approx(0.25, abs=0.01)
    marks = np.argwhere((pixels == (196, 52, 28)).all(axis=2)[:, 200:])[:, 1] + 200
    starts = np.argwhere(bars)[:, 1].min() + 120
    assert (marks.mean() - starts) / max(lengths) == pytest.approx(0.75, abs=0.01)
    plain = [effect._replace(confirmed=None) for effect in EFFECTS]
    assert draw_effect_chart(plain, title="what does most").height == pixels.shape[0] - 24  # no key
    assert draw_effect_chart([], title="").height > 0
    assert draw_effect_chart([EFFECTS[0]._replace(effect=0.0)], title="x").height > 0
