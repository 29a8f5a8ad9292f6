"""What the tab's fields say, by name, and the recipe that they ask for; no page is needed for either."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..architectures.blocks import ARCHITECTURES, Architecture
from ..errors import ElementalError, RecipeError, SpecError
from ..hosts.base import CheckpointRef, LoraRef
from ..merge.files.checkpoint import Checkpoint, Signature
from ..merge.files.model_file import read_signature
from ..merge.files.model_locator import expand_home, model_source
from ..merge.files.recipe_models import is_recipe
from ..modes.catalogue import MergeMode
from ..recipe.adjustments import NAMES as ADJUSTMENTS
from ..recipe.adjustments import join_adjust, parse_adjust
from ..recipe.block_weights import BlockWeights, format_block_weights, parse_block_weights
from ..recipe.chains import base_file
from ..recipe.lookalikes import plain_text
from ..recipe.numbers import all_numbers, complete_numbers, format_numbers, known_numbers, parse_numbers
from ..recipe.presets import choose_block_weights
from ..recipe.recipe import MergeRecipe, ModelSource, SaveDtype, VaeChoice, drop_unused
from ..recipe.rules import RuleSet, format_rules
from ..recipe.spec_errors import for_architecture
from ..recipe.spec_parser import parse_rules
from ..recipe.spec_reader import parse_ratio
from ..workflows import load_presets
from .further_models import read_more, write_more
from .loras import read_loras, write_loras
from .recipe_models import path_of_title, read_chosen, recipe_title

FindModel = Callable[[str], ModelSource]

KEEP = "as in A"
"""The choice of each tensor's own number format."""

_NUMBERS = re.compile(r"[-+.,\d\seE]+")
_LONGEST_ADJUST = 500
_VAES = (VaeChoice.MERGED.value, VaeChoice.A.value, VaeChoice.B.value)


@dataclass(frozen=True)
class MergeForm:
    """The fields that decide a merge, as the page has them.

    Attributes:
        model_a: A checkpoint, by its title in the host's list, or by its path.
        model_b: The second.
        model_c: The third; passed over in modes that have no use for it, as is beta.
        mode: The mode's name.
        alpha: The plain ratio.
        beta: The second ratio.
        blocks: Block weights as numbers, or the name of a preset; empty for none.
        blocks_beta: The same for beta.
        spec: The elemental rules.
        vae: Where the VAE comes from: "merged", "a" or "b".
        dtype: The number format of a saved file, or :data:`KEEP`.
        force: Whether to merge U-Nets that do not fit together.
        drop_ema: Whether to leave out A's EMA weights.
        numbers: Numbers of the mode, such as "p=0.9, seed=3"; those of other modes are passed over.
        loras: A LoRA a line, as :func:`~.loras.read_loras` reads them. With LoRAs, B may be left empty: they are added
            to A alone then, whatever the ratios.
        more: A further model a line, as :func:`~.further_models.read_more` reads them; passed over in modes that take
            none.
        adjust: Numbers for detail, contrast and colours, as :func:`~..recipe.adjustments.parse_adjust` reads them;
            blank for none. They adjust A alone, too, if B is left empty.
    """

    model_a: str = ""
    model_b: str = ""
    model_c: str = ""
    mode: str = MergeMode.WEIGHT_SUM.value
    alpha: float = 0.5
    beta: float = 0.25
    blocks: str = ""
    blocks_beta: str = ""
    spec: str = ""
    vae: str = VaeChoice.MERGED.value
    dtype: str = KEEP
    force: bool = False
    drop_ema: bool = False
    numbers: str = ""
    loras: str = ""
    more: str = ""
    adjust: str = ""

    @property
    def merge_mode(self) -> MergeMode:
        """The mode.

        Raises:
            RecipeError: There is none of that name.
        """
        try:
            return MergeMode(self.mode)
        except ValueError as exc:
            raise RecipeError(f'There is no merge mode "{self.mode}".') from exc

    @property
    def save_dtype(self) -> SaveDtype | None:
        """The number format of a saved file; None for each tensor's own.

        Raises:
            RecipeError: There is none of that name.
        """
        try:
            return None if self.dtype == KEEP else SaveDtype(self.dtype)
        except ValueError as exc:
            raise RecipeError(f'There is no number format "{self.dtype}".') from exc

    def recipe(self, find_model: FindModel, loras: Sequence[LoraRef] = ()) -> MergeRecipe:
        """Make the recipe that the form asks for.

        Args:
            find_model: Finds a model by what the form calls it.
            loras: The host's LoRAs.

        Raises:
            ElementalError: A field cannot be read, a model is not chosen, or they do not fit together.
        """
        mode = self.merge_mode
        rules = self._rules(find_model)  # first, since it is what one is typing
        models = self._models(find_model, mode)
        parts = {
            **models,
            "mode": mode,
            "alpha": _number("alpha", self.alpha),
            "beta": _number("beta", self.beta) if mode.uses_beta else MergeForm.beta,
            "block_alpha": _weights("block weights", self.blocks, models["model_a"]),
            "block_beta": _weights("block weights of beta", self.blocks_beta, models["model_a"]),
            "rules": rules,
            "vae": VaeChoice(self.vae) if self.vae in _VAES else VaeChoice.MERGED,
            "dtype": self.save_dtype,
            "force": bool(self.force),
            "drop_ema": bool(self.drop_ema),
            "numbers": _numbers(mode, self.numbers),
            "loras": read_loras(self.loras or "", loras),
            "more": read_more(self.more or "", mode, find_model),
            "adjust": self._adjust,
        }
        if self._only_changes_a:
            parts |= {"alpha": 0.0, "block_alpha": None, "block_beta": None}
        kept = drop_unused(parts, mode)
        kept["rules"] = rules  # what is typed is not dropped silently: the recipe refuses a beta that it has no use for
        return MergeRecipe(**kept)

    def _rules(self, find_model: FindModel) -> RuleSet:
        try:
            return parse_rules(self.spec)
        except SpecError as exc:
            error = exc
        with suppress(ElementalError):  # no A is chosen, or it cannot be read: another error, for later
            error = for_architecture(error, architecture_of(expand_home(find_model(self.model_a).path)))
        raise error

    def _models(self, find_model: FindModel, mode: MergeMode) -> dict[str, ModelSource]:
        titles = {"model_a": self.model_a, "model_b": self.model_b}
        if mode.uses_c:
            titles["model_c"] = self.model_c
        elif self._only_changes_a or not mode.uses_b:
            titles["model_b"] = self.model_a
        missing = [name[-1].upper() for name, title in titles.items() if not (title or "").strip()]
        if missing:
            raise RecipeError(f"Choose model {' and '.join(missing)}.")
        return {name: find_model(title) for name, title in titles.items()}

    @property
    def _only_changes_a(self) -> bool:
        """Whether LoRAs and adjustments alone are for A: there are some, and no other model, which nothing needs."""
        mode = self.merge_mode
        others = [self.model_b, self.more if mode.takes_more else ""]
        needs_others = any((other or "").strip() for other in others) or mode.uses_c or not mode.uses_b
        return not needs_others and (bool((self.loras or "").strip()) or self._adjust is not None)

    @property
    def _adjust(self) -> tuple[float, ...] | None:
        text = (self.adjust or "").strip()
        if len(text) > _LONGEST_ADJUST:
            raise RecipeError(f"adjust takes up to {len(ADJUSTMENTS)} numbers, not {len(text):,} letters.")
        return parse_adjust(text) if text else None

    def to_dict(self) -> dict[str, Any]:
        """Give the form as plain data that :func:`form_from_dict` reads back."""
        return asdict(self)


FIELDS = tuple(field.name for field in fields(MergeForm))


def form_from_dict(data: Mapping[str, Any]) -> MergeForm:
    """Read a form from plain data; what is unknown is left out, and what is missing or blank is the default."""
    default = asdict(MergeForm())
    present = {name: data[name] for name in FIELDS if data.get(name) is not None}
    return MergeForm(**{**default, **present})


def form_from_recipe(
    recipe: MergeRecipe, checkpoints: Sequence[CheckpointRef], loras: Sequence[LoraRef] = ()
) -> MergeForm:
    """Fill a form from a recipe; models that the host does not list are called by their paths, LoRAs by their names.

    Raises:
        RecipeError: The form has no field for something in the recipe.
    """
    if recipe.vae is VaeChoice.FILE:
        raise RecipeError("The recipe takes its VAE from a file, which this form cannot; use the command line for it.")

    def title(source: ModelSource | None) -> str:
        return "" if source is None else title_of(source, checkpoints)

    default = MergeForm()
    return MergeForm(
        model_a=title(recipe.model_a),
        model_b=title(recipe.model_b),
        model_c=title(recipe.model_c),
        mode=recipe.mode.value,
        alpha=recipe.alpha,
        beta=default.beta if recipe.beta is None else recipe.beta,
        blocks=format_block_weights(recipe.block_alpha) if recipe.block_alpha else "",
        blocks_beta=format_block_weights(recipe.block_beta) if recipe.block_beta else "",
        spec=format_rules(recipe.rules),
        vae=recipe.vae.value,
        dtype=recipe.dtype.value if recipe.dtype else KEEP,
        force=recipe.force,
        drop_ema=recipe.drop_ema,
        numbers=format_numbers(recipe.numbers),
        loras=write_loras(recipe.loras, loras),
        more=write_more(recipe.more, title),
        adjust="" if recipe.adjust is None else join_adjust(recipe.adjust),
    )


def numbers_for(mode: MergeMode, text: str) -> str:
    """Give all numbers of a mode as text: those that a text has, if it can be read, and the defaults of the others."""
    try:
        return format_numbers(complete_numbers(mode, known_numbers(mode, parse_numbers(text))))
    except RecipeError:
        return format_numbers(complete_numbers(mode, {}))


def title_of(source: ModelSource, checkpoints: Sequence[CheckpointRef]) -> str:
    """Give a model's title in the host's list, or else its path."""
    path = expand_home(source.path)
    if source.recipe is not None and source.path == source.name:  # of a recipe made elsewhere
        return recipe_title(source)
    return next((listed.title for listed in checkpoints if listed.path == path), source.path)


def finder(
    checkpoints: Sequence[CheckpointRef], folder: Path | None = None, loras: Sequence[LoraRef] = ()
) -> FindModel:
    """Give what finds a model by its title in the host's list, or by its path; any other raises a RecipeError.

    A recipe in the host's folder is read, and stands for the model that it makes.

    Nothing else of the disk is looked at, and the error is the same whether or not there is such a file: who uses the
    tab over a network learns nothing of the machine that it runs on.

    Args:
        checkpoints: The host's list.
        folder: The host's folder of models, of which a path may name a file that is not listed yet.
        loras: The host's LoRAs, for recipes that add some.
    """
    by_title = {listed.title: listed.path for listed in checkpoints}
    listed_paths = {absolute_path(listed.path) for listed in checkpoints}
    top = None if folder is None else absolute_path(folder)

    def locate(title: str) -> Path:
        title = title.strip()
        recipe = None if top is None else path_of_title(title, top)
        path = by_title.get(title) or absolute_path(recipe or expand_home(title))
        is_known = title in by_title or path in listed_paths or (top is not None and path.is_relative_to(top))
        if not is_known or not is_file(path):
            raise RecipeError(f'No model named "{title}". Refresh the list or choose one.')
        return path

    def find(title: str) -> ModelSource:
        path = locate(title)
        return read_chosen(path, locate, checkpoints, top, loras) if top and is_recipe(path) else model_source(path)

    return find


def absolute_path(path: str | Path) -> Path:
    """Make a path absolute without looking at the disk."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def block_names(count: int) -> tuple[str, ...]:
    """List the U-Net's blocks of an architecture that has so many; of the first one for any other number."""
    fitting = (architecture for architecture in ARCHITECTURES if len(architecture.unet_blocks) == count)
    return next(fitting, ARCHITECTURES[0]).unet_blocks


def is_file(path: Path) -> bool:
    """Tell whether there is such a file; False where nobody may look."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # no system has files of such a name
        return False


def _weights(name: str, text: str, model_a: ModelSource) -> BlockWeights | None:
    """Read numbers, the name of a preset, or a line of a file of presets; numbers are read without looking at A."""
    if not (text or "").strip():
        return None
    try:
        if _NUMBERS.fullmatch(text):
            return parse_block_weights(text)
        return choose_block_weights(text, load_presets(), architecture_of(expand_home(base_file(model_a).path)))
    except RecipeError as exc:
        raise RecipeError(f"{name}: {exc}") from exc


def _numbers(mode: MergeMode, text: str) -> dict[str, float]:
    """Read the numbers of a mode; those of other modes may have been left in the field by one of them."""
    if not mode.record.numbers:
        return {}
    try:
        others = all_numbers().keys() - {number.name for number in mode.record.numbers}
        given = {name: value for name, value in parse_numbers(text).items() if name not in others}
        return dict(complete_numbers(mode, given))
    except RecipeError as exc:
        raise RecipeError(f"numbers: {exc}") from exc


def architecture_of(path: Path) -> Architecture:
    """Give the architecture of a checkpoint; it is remembered until the file changes.

    Raises:
        CheckpointError: The file cannot be read, or its architecture is unknown.
    """
    return _architecture_of(path, read_signature(path))


@functools.lru_cache(maxsize=64)
def _architecture_of(path: Path, _signature: Signature) -> Architecture:
    with Checkpoint(path) as checkpoint:
        return checkpoint.architecture


def _number(name: str, value: Any) -> float:
    try:
        number = parse_ratio(plain_text(value).strip()) if isinstance(value, str) else float(value)
    except (TypeError, ValueError) as exc:
        raise RecipeError(f"{name} must be a number.") from exc
    if number is None:
        raise RecipeError(f"{name} must be a number.")
    return number


def shown_path(path: Path) -> str:
    """Write a path as people do, the user's home as ``~``."""
    return model_source(path).path


def safe_file_name(text: str, folder: Path) -> Path:
    """Give the file in a folder that a merge is saved as.

    Args:
        text: Its name, with or without ``.safetensors``; no path.
        folder: Where it goes.

    Raises:
        RecipeError: It is empty, or would lead out of the folder.
    """
    name = (text or "").strip()
    stem = name[: -len(".safetensors")] if name.lower().endswith(".safetensors") else name
    if not stem.strip(". "):
        raise RecipeError("Give the file a name.")
    forbidden = sorted(set('/\\:*?"<>|').intersection(name) | {mark for mark in name if ord(mark) < 32})
    if forbidden or stem.startswith(".") or len(name) > 200:
        raise RecipeError(
            f'"{name}" is no name for a file here: it is a name without folders, and without / \\ : * ? " < > |.'
        )
    return folder / f"{stem}.safetensors"
