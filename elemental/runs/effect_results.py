"""What is made of an estimate: plain data, tables, chart, effect map and images, in files with numbered names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..architectures.blocks import Architecture
from ..images.effect_chart import draw_effect_chart, format_effects
from ..images.effect_map_drawing import draw_effect_map
from ..images.files import make_folder, write_png, write_whole
from ..images.image_request import GeneratedImage
from ..images.infotext import format_infotext
from ..merge.files.metadata import LABEL_FIELD, RECIPE_FIELD, name_recipe, recipe_to_share, without_folders
from ..recipe.recipe import MergeRecipe
from ..recipe.text_files import read_text
from .axes.base import Setting
from .effect_estimate import EffectOrder, Effects, Method, count_passes
from .effect_ranking import Effect, EffectRanking, map_effects
from .grid_contents import describe_setting
from .run_files import RunFiles

if TYPE_CHECKING:
    from PIL import Image

    from ..effects.samples import Samples

_DIGITS = 6
"""Of figures in JSON."""
_JSON, _IMAGES = ("effects", ".json"), "effect-images"
_TABLES = {
    "tensors": ("effects", ".csv"),
    "groups": ("effect-groups", ".csv"),
    "blocks": ("effect-blocks", ".csv"),
}
_CHART, _MAP = ("effect-chart", ".png"), ("effect-map", ".png")


def describe_passes(effects: Effects) -> str:
    """Say how many passes an estimate has, and how many of them were there before."""
    total = count_passes(effects.samples)
    there = f" ({effects.found:,} of them were there)" if effects.found else ""
    return f"{_spoken(total)}{there}"


def _spoken(passes: int) -> str:
    return f"{passes:,} backward pass{'es' * (passes != 1)}"


def effects_to_dict(effects: Effects, ranking: EffectRanking) -> dict[str, Any]:
    """Give the figures of an estimate as plain data: method, passes, and the effects, in the order of the ranking.

    Effects are mean absolute differences of channel values, of 255, at a ratio larger by 1, to first order; "true" is
    that of real images, where there are any.
    """
    return {
        "method": effects.order.method.value,
        "passes": count_passes(effects.samples),
        "tensors": [{"key": effect.name, **_to_dict(effect), **_true(effect)} for effect in ranking.tensors],
        "groups": [_to_dict(effect) for effect in ranking.groups],
        "blocks": [{"block": effect.block, "effect": _rounded(effect.effect)} for effect in ranking.blocks],
    }


def _to_dict(effect: Effect) -> dict[str, Any]:
    return {"block": effect.block, "element": effect.element, "effect": _rounded(effect.effect)}


def _true(effect: Effect) -> dict[str, float]:
    return {} if effect.confirmed is None else {"true": _rounded(effect.confirmed)}


def _rounded(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")


def title_of(recipe: MergeRecipe) -> str:
    """Say what effects are estimated, in a few words: "What more of b changes"."""
    model_b, model_c = (PurePath(source.name).stem if source else "" for source in (recipe.model_b, recipe.model_c))
    more = f"{model_b} - {model_c}" if recipe.mode.record.adds_difference else model_b
    return f"What more of {more} changes"


def describe_estimate(order: EffectOrder, samples: Samples) -> str:
    """Say in a few lines what an estimate was made from: models, ratios, rules, images, method, passes."""
    requests = order.requests
    varied = [name for name in ("prompt", "seed") if len({getattr(request, name) for request in requests}) > 1]
    lines = [describe_setting(Setting(order.recipe, requests[0]), varied=varied)]
    if "prompt" in varied:
        lines.append("prompts: " + ", ".join(f'"{prompt}"' for prompt in _distinct(order, "prompt")))
    if "seed" in varied:
        lines.append("seeds: " + ", ".join(_distinct(order, "seed")))
    unit = "U-Net steps" if order.method is Method.STEPS else "whole images"
    return "\n".join([*lines, f"estimated from {_spoken(count_passes(samples))} of {unit}"])


def _distinct(order: EffectOrder, name: str) -> list[str]:
    return list(dict.fromkeys(str(getattr(request, name)) for request in order.requests))


def write_effects(folder: Path, effects: Effects, ranking: EffectRanking, architecture: Architecture) -> list[Path]:
    """Write what is made of an estimate.

    Later figures of the same estimate, with more passes or confirmed ones, replace the earlier. Those of another one
    stay: a number is added to the names.

    Args:
        folder: The folder.
        effects: The estimate.
        ranking: Its ranking.
        architecture: Of the models.

    Returns:
        The map, the chart, the tables of tensors, groups and blocks, the figures as JSON, and the folder of the images.

    Raises:
        ImageError: A file cannot be written.
    """
    make_folder(folder)
    writer = _find_names(folder, effects)
    figures = writer.write(_JSON, _encode(effects, ranking, samples=writer.samples))  # first: it says whose files
    tables = {"tensors": ranking.tensors, "groups": ranking.groups, "blocks": ranking.blocks}
    written = [
        writer.write(_TABLES[name], format_effects([effect.ranked() for effect in listed]))
        for name, listed in tables.items()
    ]
    title, made_from = title_of(effects.order.recipe), describe_estimate(effects.order, effects.samples)
    effect_map = map_effects(ranking, architecture, title=title, made_from=made_from)
    chart = draw_effect_chart([effect.ranked() for effect in ranking.shown], title=f"{title}\n{made_from}")
    drawn = [writer.draw(_MAP, draw_effect_map(effect_map), effects), writer.draw(_CHART, chart, effects)]
    return [*drawn, *written, figures, writer.write_images(effects)]


def _encode(effects: Effects, ranking: EffectRanking, *, samples: str) -> bytes:
    made_from = {
        "samples": samples,
        "recipe": without_folders(effects.order.recipe.to_dict()),
        "requests": [request.to_dict() for request in effects.order.requests],
    }
    return json.dumps({**effects_to_dict(effects, ranking), **made_from}, indent=1).encode()


@dataclass(frozen=True)
class _Writer:
    """Writes the files of one estimate.

    Attributes:
        files: Their names.
        samples: The name of the file of samples that they are made of; empty if there is none.
        replace: Whether there are earlier files of the same estimate.
    """

    files: RunFiles
    samples: str
    replace: bool

    def write(self, name: tuple[str, str], data: bytes) -> Path:
        path = self.files.path(*name)
        write_whole(path, data, replace=self.replace)
        return path

    def draw(self, name: tuple[str, str], image: Image.Image, effects: Effects) -> Path:
        path = self.files.path(*name)
        write_png(path, GeneratedImage(image, 0, "", _fields(effects.order.recipe)), replace=self.replace)
        return path

    def write_images(self, effects: Effects) -> Path:
        """Write the image of each request, and give their folder."""
        folder = self.files.path(_IMAGES)
        make_folder(folder)
        recipe = effects.order.recipe
        for index, (request, image) in enumerate(zip(effects.order.requests, effects.images, strict=True)):
            infotext = format_infotext(request, seed=request.seed, model={LABEL_FIELD: name_recipe(recipe)})
            generated = GeneratedImage(image, request.seed, infotext, _fields(recipe))
            write_png(folder / f"{index:05}-{request.seed}.png", generated, replace=True)
        return folder


def _fields(recipe: MergeRecipe) -> dict[str, str]:
    return {RECIPE_FIELD: recipe_to_share(recipe.to_dict())}


def _find_names(folder: Path, effects: Effects) -> _Writer:
    """Find the names of an estimate's files: those that it has already, or the first that nothing has."""
    samples = effects.file.name if effects.file is not None else ""
    for number in itertools.count(1):
        files = RunFiles(folder, number)
        if samples and _samples_of(files.path(*_JSON)) == samples:
            return _Writer(files, samples, replace=True)
        if not any(path.exists() for path in _all_paths(files)):
            return _Writer(files, samples, replace=False)
    raise AssertionError("there is always another number")


def _all_paths(files: RunFiles) -> Sequence[Path]:
    return [*(files.path(*name) for name in (_JSON, *_TABLES.values(), _CHART, _MAP)), files.path(_IMAGES)]


def _samples_of(path: Path) -> str:
    """Give the name of the samples that a file of figures is made of; empty if it is none."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return str(json.loads(read_text(path))["samples"])
    return ""
