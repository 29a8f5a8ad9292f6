"""What a run's grid shows: the image of each cell, and the legend."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import ImageError
from ..images.files import read_image
from ..images.grid import GridCell
from ..recipe.block_weights import format_block_weights
from ..recipe.recipe import VaeChoice
from ..recipe.rules import format_ratio
from .axis import Setting
from .record import RunRecord
from .runner import FAILED


def grid_cell(name: str, record: RunRecord) -> GridCell:
    """Read the image of a cell, or say why there is none."""
    facts = record.cells[name]
    try:
        return GridCell(read_image(record.files.cell(name)))
    except ImageError:
        return GridCell(None, f"failed: {facts['error']}" if facts["state"] == FAILED else "not made yet")


def describe_setting(setting: Setting, *, varied: Collection[str] = ()) -> str:
    """Say in a few lines what images have in common: models, mode, ratios, block weights, rules, request.

    Args:
        setting: The recipe and the request.
        varied: The parts that differ from image to image, and are left out.
    """
    recipe, request = setting.recipe, setting.request
    models = {"model_a": recipe.model_a, "model_b": recipe.model_b, "model_c": recipe.model_c}
    names = [f"{part[-1].upper()} {source.name}" for part, source in models.items() if source and part not in varied]
    mode = [] if "mode" in varied else [f"{recipe.mode.value}: {recipe.mode.formula}"]
    numbers = {"alpha": recipe.alpha, "beta": recipe.beta}
    ratios = [
        f"{part} {format_ratio(value)}" for part, value in numbers.items() if value is not None and part not in varied
    ]
    weights = {"block_alpha": ("MBW", recipe.block_alpha), "block_beta": ("MBW beta", recipe.block_beta)}
    blocks = [f"{name} {format_block_weights(w)}" for part, (name, w) in weights.items() if w and part not in varied]
    rules = "rules " + ", ".join(map(str, recipe.rules.rules)) if recipe.rules and "rules" not in varied else ""
    parts = [
        f"{name} {value}"
        for name, value in {
            "VAE": recipe.vae is not VaeChoice.MERGED and recipe.vae.value,
            "dtype": recipe.dtype and recipe.dtype.value,
        }.items()
        if value
    ]
    prompts = {"prompt": request.prompt, "negative": request.negative}
    texts = [f"{part}: {text}" for part, text in prompts.items() if text and part not in varied]
    settings = {
        "sampler": request.sampler,
        "steps": f"{request.steps} steps",
        "cfg": f"CFG {request.cfg:g}",
        "seed": f"seed {request.seed}",
        "size": f"{request.width}x{request.height}",
    }
    lines = [
        "   ".join([*names, *mode, *ratios, *parts]),
        *blocks,
        rules,
        "   ".join([*texts, *(value for part, value in settings.items() if part not in varied)]),
    ]
    return "\n".join(filter(None, lines))
