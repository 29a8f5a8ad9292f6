"""A form as a call of the command line, to copy."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence

from ..merge.files.metadata import recipe_to_share
from ..recipe.adjustments import join_adjust
from ..recipe.block_weights import format_block_weights
from ..recipe.chains import recipes_in
from ..recipe.lora_texts import format_lora
from ..recipe.more_texts import format_more
from ..recipe.recipe import MergeRecipe, ModelSource, VaeChoice
from ..recipe.rules import format_ratio, format_rules
from .form import MergeForm
from .session import Session


def command_of(session: Session, form: MergeForm, *, name: str = "") -> str:
    """Give the command that makes a file of the form's merge.

    Args:
        session: Finds the models.
        form: The form.
        name: The name of the file.

    Raises:
        ElementalError: The form is not complete, or does not fit together.
    """
    recipe = session.recipe(form)
    chained = any(recipes_in(recipe))
    folder = ["--models", str(session.host.models_folder())] if chained else []  # where the tab found what they name
    return _join(["elemental", "merge", *_options(recipe), *folder, "-o", f"{name.strip() or 'merged'}.safetensors"])


def recipe_of(session: Session, form: MergeForm) -> str:
    """Give the recipe of the form as JSON, whose models have names and no folders.

    Raises:
        ElementalError: The form is not complete, or does not fit together.
    """
    return recipe_to_share(session.recipe(form).to_dict())


def _options(recipe: MergeRecipe) -> list[str]:
    others = [] if recipe.has_one_model else [recipe.model_b, *([recipe.model_c] if recipe.model_c else [])]
    models = [recipe.model_a, *others]
    words = list(map(_whole, models))
    words += ["--mode", recipe.mode.value, f"--alpha={format_ratio(recipe.alpha)}"]
    if recipe.beta is not None:
        words.append(f"--beta={format_ratio(recipe.beta)}")
    words += [f"--number={name}={format_ratio(number)}" for name, number in recipe.numbers.items()]
    for option, weights in (("--blocks", recipe.block_alpha), ("--blocks-beta", recipe.block_beta)):
        if weights is not None:
            words.append(f"{option}={format_block_weights(weights)}")
    if recipe.rules.rules:
        words += ["--elemental", format_rules(recipe.rules).replace("\n", ", ")]
    words += [f"--more={format_more(_whole(model.file), model.ratio)}" for model in recipe.more]
    words += [f"--lora={format_lora(_whole(lora.file), lora.ratio, lora.ratio_te)}" for lora in recipe.loras]
    if recipe.adjust is not None:
        words.append(f"--adjust={join_adjust(recipe.adjust)}")
    if recipe.vae is not VaeChoice.MERGED:
        words += ["--vae", recipe.vae.value]
    if recipe.dtype is not None:
        words += ["--dtype", recipe.dtype.value]
    return [*words, *(["--force"] if recipe.force else []), *(["--drop-ema"] if recipe.drop_ema else [])]


def _whole(source: ModelSource) -> str:
    return os.path.expanduser(source.path)  # noqa: PTH111


def _join(words: Sequence[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
