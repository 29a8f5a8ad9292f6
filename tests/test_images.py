"""Figures with known answers; labels that fit; files that are whole."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elemental import MergeRecipe, ModelSource, RecipeError, parse_rules, read_recipe
from elemental.errors import ImageError
from elemental.images.diff import Difference, compare_images, draw_difference
from elemental.images.files import write_gif, write_png, write_whole
from elemental.images.grid_drawing import PAPER, GridCell, GridSheet, draw_grid
from elemental.images.image_request import GeneratedImage, ImageRequest
from elemental.images.infotext import format_infotext
from elemental.images.ranking import CSV_COLUMNS, ElementEffect, draw_ranking, format_csv, rank_effects
from elemental.images.text_drawing import SMALLEST, find_font, fit_text, text_box

GREY = Image.new("RGB", (10, 10), (100, 100, 100))


def with_pixels(*pixels: tuple[int, int, int]) -> Image.Image:
    image = GREY.copy()
    for index, pixel in enumerate(pixels):
        image.putpixel((index, 0), pixel)
    return image


def test_figures_of_hand_made_images() -> None:
    assert compare_images(GREY, GREY) == (0.0, 0.0, 0, 1.0)
    # 300 channel values; one differs by exactly the threshold and is not counted, two by more
    found = compare_images(GREY, with_pixels((120, 100, 100), (121, 100, 0)))
    assert found.share == pytest.approx(100 * 2 / 300)
    assert found.mean == pytest.approx((20 + 21 + 100) / 300)
    assert found.largest == 100
    black, white = (Image.new("RGB", (8, 8), colour) for colour in ((0, 0, 0), (255, 255, 255)))
    found = compare_images(black, white)
    assert found[:3] == (100.0, 255.0, 255)
    assert found.similarity == pytest.approx(0.0, abs=1e-3)
    # differences do not wrap around, whichever way they go
    assert compare_images(white, black)[:3] == (100.0, 255.0, 255)


def test_similarity_of_small_and_unlike_images() -> None:
    assert compare_images(GREY.crop((0, 0, 5, 5)), GREY.crop((0, 0, 5, 5))).similarity is None
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (10, 10, 3), dtype=np.uint8))
    similarity = compare_images(GREY, noise).similarity
    assert similarity is not None
    assert similarity < 0.2
    with pytest.raises(ImageError, match="different sizes"):
        compare_images(GREY, GREY.resize((10, 11)))


def test_the_image_of_a_difference() -> None:
    drawn = draw_difference(GREY, with_pixels((110, 90, 100), (200, 100, 100)))
    assert drawn.getpixel((0, 0)) == (30, 30, 0)
    assert drawn.getpixel((1, 0)) == (255, 0, 0)
    assert drawn.getpixel((2, 0)) == (0, 0, 0)


EFFECTS = [
    ElementEffect("OUT03:attn1", 1.0, Difference(2.5, 1.0, 90, 0.9), "cells/x01-y00.png"),
    ElementEffect("OUT03:attn2", 1.0, Difference(12.0, 4.0, 200, 0.5), "cells/x01-y01.png"),
    ElementEffect('OUT03:"odd, name"', 1.0, Difference(2.5, 2.0, 80, None), "cells/x01-y02.png"),
]


def test_the_table_has_all_figures_ranked() -> None:
    rows = list(csv.DictReader(io.StringIO(format_csv(EFFECTS).decode("utf-8-sig"))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["elements"] for row in rows] == ["OUT03:attn2", 'OUT03:"odd, name"', "OUT03:attn1"]
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["changed_percent"] == "12.000"
    assert rows[1]["structural_similarity"] == ""
    assert rows[2]["largest_difference"] == "90"
    assert [effect.elements for effect in rank_effects(EFFECTS)] == [row["elements"] for row in rows]


def test_the_bars_of_the_ranking_have_lengths_in_proportion() -> None:
    pixels = np.asarray(draw_ranking(EFFECTS, title="each element at 1"))
    bars = (pixels == (74, 116, 196)).all(axis=2)
    lengths = [int(row.sum()) for row in bars if row.any()]
    assert len({*lengths}) == 2
    assert min(lengths) / max(lengths) == pytest.approx(2.5 / 12, abs=0.01)
    many = [effect._replace(elements=f"OUT00:{index}") for index in range(100) for effect in EFFECTS]
    assert draw_ranking(many, title="x").height < 6000


def test_a_gif_takes_turns_each_second(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    write_gif(path, GREY, with_pixels((255, 0, 0)))
    with Image.open(path) as image:
        assert (getattr(image, "n_frames", 1), image.info["duration"], image.info["loop"]) == (2, 1000, 0)
        image.seek(1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_gif_shows_no_difference_where_there_is_none(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3) + generator.normal(0, 8, (64, 64, 3))
    first = Image.fromarray(smooth.clip(0, 255).astype(np.uint8))
    second = first.copy()
    second.paste((255, 0, 255), (20, 20, 40, 40))
    write_gif(tmp_path / "a.gif", first, second)
    with Image.open(tmp_path / "a.gif") as image:
        frames = []
        for index in range(2):
            image.seek(index)
            frames.append(np.asarray(image.convert("RGB"), dtype=np.int16))
    changed = np.abs(frames[0] - frames[1]).max(axis=2) > 0
    assert changed[20:40, 20:40].all()
    changed[20:40, 20:40] = False
    assert not changed.any()


def test_a_gif_keeps_its_few_colours(tmp_path: Path) -> None:
    first = Image.fromarray((np.arange(192) * 8 % 256).astype(np.uint8).reshape(8, 8, 3))
    second = first.copy()
    second.putpixel((3, 3), (200, 8, 88))
    write_gif(tmp_path / "a.gif", first, second)
    with Image.open(tmp_path / "a.gif") as image:
        for index, frame in enumerate((first, second)):
            image.seek(index)
            assert image.convert("RGB").tobytes() == frame.tobytes()


@pytest.mark.parametrize("noise", [0, 9])
def test_a_gif_is_near_its_images(tmp_path: Path, noise: int) -> None:
    generator = np.random.default_rng(1)
    red, blue = (np.linspace(start, end, 96 * 96).reshape(96, 96, 1) for start, end in ((250, 180), (20, 120)))
    frames = []
    for colours in ((red, blue, blue), (blue, red, red)):
        drawn = np.concatenate(colours, axis=2) + generator.normal(0, noise, (96, 96, 3))
        drawn[30:60, 30:60] = (240, 240, 20)
        frames.append(Image.fromarray(drawn.clip(0, 255).astype(np.uint8)))
    for name in ("a.gif", "b.gif"):
        write_gif(tmp_path / name, *frames)
    assert (tmp_path / "a.gif").read_bytes() == (tmp_path / "b.gif").read_bytes()
    with Image.open(tmp_path / "a.gif") as image:
        for index, frame in enumerate(frames):
            image.seek(index)
            found = compare_images(frame, image.convert("RGB"))
            assert found.mean < (5 if noise else 3)
            assert found.largest < (50 if noise else 16)


def test_a_line_of_block_weights_is_broken_rather_than_shrunk() -> None:
    fitted = fit_text("MBW " + ",".join(["0.25"] * 26), width=400, size=20)
    assert fitted.size == 20
    assert len(fitted.lines) > 3
    assert fit_text("赤い丸と青い星" * 20, width=200, size=20).size == 20
    name = fit_text("OUT05:1.transformer_blocks.0.attn2.to_k.weight:0.5", width=512, size=60, most_lines=5)
    assert name.size > 30


@pytest.mark.parametrize(
    "text", ["alpha 0.5", "OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5, IN00:NOT attn proj:0.25", "w" * 300]
)
@pytest.mark.parametrize("width", [60, 192, 512])
def test_labels_are_wrapped_and_scaled_and_never_cut(text: str, width: int) -> None:
    fitted = fit_text(text, width=width, size=24, most_lines=4)
    assert "".join("".join(fitted.lines).split()) == "".join(text.split())
    assert fitted.width <= width + 1
    assert fitted.size >= SMALLEST
    assert len(fitted.lines) <= 4 or fitted.size == SMALLEST


def test_a_font_has_the_characters_that_it_is_chosen_for() -> None:
    latin = find_font("a red circle é ж", 20)
    assert bytes(latin.getmask("ж")) != bytes(latin.getmask("\U0010ffff"))
    fit_text("赤い丸 0.5", width=100, size=20)  # whether or not this system has a font for it


def test_a_grid_has_its_images_where_they_belong() -> None:
    colours = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]]
    rows = [[GridCell(Image.new("RGB", (192, 192), colour)) for colour in row] for row in colours]
    rows[1][1] = GridCell(None, "failed: no reason")
    sheet = GridSheet(rows, ["one", "two"], ["first", "second"], legend="A a.safetensors", size=(192, 192))
    pixels = np.asarray(draw_grid(sheet)[0])
    centres = {}
    for row in colours[0] + colours[1][:1]:
        ys, xs = np.where((pixels == row).all(axis=2))
        assert len(ys) == 192 * 192
        centres[row] = ys.mean(), xs.mean()
    assert centres[200, 0, 0][0] == centres[0, 200, 0][0] < centres[0, 0, 200][0]
    assert centres[200, 0, 0][1] == centres[0, 0, 200][1] < centres[0, 200, 0][1]
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((edge == PAPER).all() for edge in edges)  # nothing is written over an edge


def test_letters_grow_with_the_grid() -> None:
    def height_of_head(columns: int) -> float:
        rows = [[GridCell(Image.new("RGB", (64, 64), (255, 0, 0))) for _ in range(columns)]]
        pixels = np.asarray(draw_grid(GridSheet(rows, ["alpha 0.5"] * columns, size=(64, 64)))[0])
        return float(np.where((pixels == (255, 0, 0)).all(axis=2).any(axis=1))[0][0])

    assert height_of_head(25) > 1.5 * height_of_head(2)


def test_large_grids_can_be_opened_again() -> None:
    cells = [[GridCell(None)] * 25] * 25
    width, height = draw_grid(GridSheet(cells, [""] * 25, size=(512, 512)))[0].size
    assert width * height < 80_000_000  # Pillow warns from 89 million on


def test_a_long_message_stays_in_its_box() -> None:
    box = np.asarray(text_box("failed: " + "word " * 500, (128, 128), paper=(255, 255, 255), ink=(0, 0, 0)))
    assert (box[-3:] == 255).all()
    assert (box[:, -2:] == 255).all()


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    write_whole(path, b"old")
    with pytest.raises(ImageError, match="exists"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    write_whole(path, b"new", replace=True)
    assert path.read_bytes() == b"new"

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ImageError, match="No space left"):
        write_whole(path, b"newer", replace=True)
    with pytest.raises(ImageError, match="No space left"):
        write_whole(tmp_path / "b.png", b"newer")
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"new"


def test_a_recipe_is_found_in_an_infotext_that_the_webui_wrote(tmp_path: Path) -> None:
    rules = parse_rules("IN00::1\nOUT03:ff:0.2")
    recipe = MergeRecipe(ModelSource('/a, b: "c".safetensors'), ModelSource("/b"), rules=rules)
    pairs = {"Elemental": "weight-sum of a, b", "Elemental recipe": json.dumps(recipe.to_dict())}
    infotext = format_infotext(ImageRequest("a cat,\nElemental recipe: none"), seed=1, model=pairs)
    write_png(tmp_path / "a.png", GeneratedImage(GREY, 1, infotext))
    assert read_recipe(tmp_path / "a.png") == recipe
    write_png(tmp_path / "b.png", GeneratedImage(GREY, 1, "a cat\nSteps: 20"))
    with pytest.raises(RecipeError, match="has no recipe"):
        read_recipe(tmp_path / "b.png")
