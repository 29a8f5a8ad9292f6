"""The recipe: everything needed to repeat a merge, as immutable data, to and from a dict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..errors import RecipeError, SpecProblem
from ..modes.catalogue import MergeMode
from .adjustments import complete_adjust
from .block_weights import BlockWeights, format_block_weights, parse_block_weights
from .chains import UNNAMED, check_chain, refuse_deep
from .more_models import MORE_ROLES, check_more
from .numbers import Numbers, complete_numbers, known_numbers, measured_numbers
from .ratio_targets import is_further
from .rules import RuleSet, format_ratio, format_rules
from .spec_errors import PlainProblem, spec_error
from .spec_parser import parse_rules
from .suggestions import suggest
from .target_checks import check_targets

VERSION = 1
"""The version of the dict that a recipe is written as."""

_FIELDS = (
    "version", "mode", "alpha", "beta", "block_alpha", "block_beta", "rules", "vae", "dtype", "models", "force",
    "drop_ema", "loras", "numbers", "more", "adjust",
)  # fmt: skip
_ROLES = ("a", "b", "c", "vae")


class SaveDtype(Enum):
    """The dtype of the result's float tensors, if it is not A's."""

    FP16 = "fp16"
    BF16 = "bf16"
    FP32 = "fp32"


class VaeChoice(Enum):
    """The source of the result's VAE."""

    MERGED = "merged"
    A = "a"
    B = "b"
    FILE = "file"


@dataclass(frozen=True)
class ModelSource:
    """One model of a merge: a file, or a recipe in the place of one.

    Attributes:
        path: The path when the recipe was made; ``~`` stands for the user's home folder.
        sha256: The SHA-256 of the file in lower-case hex, or at least its first 10 digits, if it was computed.
        size: The size of the file in bytes, if it was recorded.
        recipe: What the model is made of, if it is no file; the path is then where this recipe was read from, and
            names it.
    """

    path: str
    sha256: str | None = None
    size: int | None = None
    recipe: MergeRecipe | None = None

    @property
    def name(self) -> str:
        """The file name without folders, for paths of any system."""
        return self.path.replace("\\", "/").rpartition("/")[2]


@dataclass(frozen=True)
class LoraSource:
    """A LoRA that is added to the result of a merge.

    Attributes:
        file: Its file.
        ratio: How much of it is added; any finite number.
        ratio_te: How much is added to the text encoders; None for the same.
    """

    file: ModelSource
    ratio: float = 1.0
    ratio_te: float | None = None

    @property
    def in_text_encoders(self) -> float:
        """How much is added to the text encoders."""
        return self.ratio if self.ratio_te is None else self.ratio_te


@dataclass(frozen=True)
class MoreModel:
    """A further model of a merge: B2, B3 and so on.

    Attributes:
        file: Its file, or the recipe in its place.
        ratio: Its ratio, whose meaning depends on the mode.
    """

    file: ModelSource
    ratio: float


@dataclass(frozen=True)
class MergeRecipe:
    """What to merge and how. Making one checks that its parts fit together.

    Attributes:
        model_a: Model A. The result has its keys and shapes; if it has no VAE, that of ``vae`` is added.
        model_b: Model B; in a mode that has none, and where LoRAs are added to A alone, it is A.
        model_c: Model C, for modes that need it.
        mode: The merge mode.
        alpha: The ratio where neither block weights nor rules set one; any finite number, usually from 0 to 1.
        beta: The same for the second ratio; None in modes without beta.
        block_alpha: Block weights that replace alpha.
        block_beta: Block weights that replace beta.
        rules: Elemental rules, which override alpha, beta and block weights; those with a target, the ratio of that.
        vae: The source of the VAE; ``FILE`` requires ``vae_file``.
        vae_file: The file of the VAE.
        dtype: The dtype of the result's float tensors; None for A's.
        force: Whether to merge U-Nets that do not fit together, as far as their names agree.
        drop_ema: Whether the result does without A's EMA weights.
        loras: LoRAs, added last, in any mode.
        numbers: The numbers that the mode has besides the ratios; those that are not given get their defaults, or are
            not there until they are measured in the models.
        more: Further models, B2 to B9 at most, in modes that take them.
        adjust: Eight numbers for detail, contrast, brightness and colours, :data:`.adjustments.NAMES`, with which the
            result is adjusted before LoRAs are added; None for no change.

    Raises:
        RecipeError: A model or ratio is missing, not allowed in this mode, not finite, or beyond the mode's limits; or
            the mode has no such number, or not of such a size.
        SpecError: A rule sets beta in a mode that has none, or has a target that the recipe has not.
    """

    model_a: ModelSource
    model_b: ModelSource
    model_c: ModelSource | None = None
    mode: MergeMode = MergeMode.WEIGHT_SUM
    alpha: float = 0.5
    beta: float | None = None
    block_alpha: BlockWeights | None = None
    block_beta: BlockWeights | None = None
    rules: RuleSet = field(default_factory=RuleSet)
    vae: VaeChoice = VaeChoice.MERGED
    vae_file: ModelSource | None = None
    dtype: SaveDtype | None = None
    force: bool = False
    drop_ema: bool = False
    loras: tuple[LoraSource, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=Numbers)
    more: tuple[MoreModel, ...] = ()
    adjust: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.mode.uses_b:
            object.__setattr__(self, "model_b", self.model_a)
        _check_models(self)
        check_more(self)
        _check_ratios(self)
        _check_limits(self)
        _check_rule_betas(self)
        _check_loras(self)
        check_targets(self)
        check_chain(self)
        object.__setattr__(self, "numbers", complete_numbers(self.mode, self.numbers))
        object.__setattr__(self, "adjust", complete_adjust(self.adjust))

    @property
    def has_one_model(self) -> bool:
        """Whether there is no other model than A: B is A once more, since nothing needs another."""
        alone = self.model_a == self.model_b and self.model_c is None and not self.more
        return alone and bool(self.loras or self.adjust or not self.mode.uses_b)

    @property
    def only_changes_a(self) -> bool:
        """Whether nothing is done with A but that LoRAs are added to it, or it is adjusted."""
        return self.has_one_model and self.mode.uses_b

    @property
    def merges_vae(self) -> bool:
        """Whether the VAE is merged, by the formula or by LoRAs alone, and not that of one model."""
        return self.vae is VaeChoice.MERGED and not self.mode.record.keeps_vae

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The numbers of the mode that are not given, and have to be measured in the models."""
        return tuple(name for name in measured_numbers(self.mode) if name not in self.numbers)

    @property
    def sources(self) -> dict[str, ModelSource]:
        """The models of the merge by role: a, b, c, b2, b3 and so on, vae."""
        more = {role: model.file for role, model in zip(MORE_ROLES, self.more, strict=False)}
        roles = {"a": self.model_a, "b": self.model_b, "c": self.model_c, **more, "vae": self.vae_file}
        return {role: source for role, source in roles.items() if source is not None}

    @property
    def more_ratios(self) -> tuple[float, ...]:
        """The ratios of the further models where no rule sets them."""
        return tuple(model.ratio for model in self.more)

    def with_mode(self, mode: MergeMode) -> MergeRecipe:
        """Give the same recipe in another mode, without what that mode cannot use.

        Raises:
            RecipeError: The mode needs model C or beta, and the recipe does not have it.
        """
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return MergeRecipe(**{**drop_unused(parts, mode), "mode": mode})

    def to_dict(self) -> dict[str, Any]:
        """Give the recipe as a dict that :func:`recipe_from_dict` reads back; unset fields are left out."""
        optional = {
            "beta": None if self.beta is None else float(self.beta),
            "block_alpha": self.block_alpha and format_block_weights(self.block_alpha),
            "block_beta": self.block_beta and format_block_weights(self.block_beta),
            "rules": format_rules(self.rules) or None,
            "vae": None if self.vae is VaeChoice.MERGED else self.vae.value,
            "dtype": self.dtype and self.dtype.value,
            "force": self.force or None,
            "drop_ema": self.drop_ema or None,
            "loras": [_lora_to_dict(lora) for lora in self.loras] or None,
            "numbers": dict(self.numbers) or None,
            "more": [_more_to_dict(model) for model in self.more] or None,
            "adjust": None if self.adjust is None else list(self.adjust),
        }
        return {
            "version": VERSION,
            "mode": self.mode.value,
            "alpha": float(self.alpha),
            **{name: value for name, value in optional.items() if value is not None},
            "models": {role: _source_to_dict(source) for role, source in self.sources.items() if role in _ROLES},
        }


def drop_unused(parts: Mapping[str, Any], mode: MergeMode) -> dict[str, Any]:
    """Remove what a mode cannot use from the fields of a recipe: model C, further models, beta, also of rules, numbers.

    What was measured for another mode is removed, too.
    """
    kept = dict(parts)
    kept["numbers"] = Numbers(known_numbers(mode, parts.get("numbers", {})))
    if parts.get("mode", mode) is not mode:
        kept["numbers"] = Numbers({n: v for n, v in kept["numbers"].items() if n not in measured_numbers(mode)})
    if not mode.uses_c:
        kept["model_c"] = None
    if not mode.takes_more:
        rules = tuple(rule for rule in parts["rules"].rules if not is_further(rule.target))
        kept |= {"more": (), "rules": parts["rules"] if rules == parts["rules"].rules else RuleSet(rules)}
    if not mode.uses_beta:
        plain = tuple(rule._replace(beta=None) for rule in kept["rules"].rules)
        kept |= {"beta": None, "block_beta": None}
        kept["rules"] = kept["rules"] if plain == kept["rules"].rules else RuleSet(plain)
    return kept


def recipe_from_dict(data: Mapping[str, Any]) -> MergeRecipe:
    """Read a recipe from a dict that :meth:`MergeRecipe.to_dict` made.

    Raises:
        RecipeError: The dict is not a recipe, or is of a later version.
        SpecError: Its rules cannot be read, set beta in a mode that has none, or have targets that it has not.
    """
    refuse_deep(data)
    try:
        _refuse_unknown(data, _FIELDS, "recipe")
        if data["version"] != VERSION:
            raise RecipeError(f"The recipe has version {data['version']}; this program reads version {VERSION}.")
        _refuse_unknown(data["models"], _ROLES, "models")
        models = {role: _source_from_dict(source) for role, source in data["models"].items()}
        return MergeRecipe(
            model_a=models["a"],
            model_b=models["b"],
            model_c=models.get("c"),
            vae_file=models.get("vae"),
            mode=MergeMode(data["mode"]),
            alpha=float(data["alpha"]),
            beta=None if "beta" not in data else float(data["beta"]),
            block_alpha=parse_block_weights(data["block_alpha"]) if "block_alpha" in data else None,
            block_beta=parse_block_weights(data["block_beta"]) if "block_beta" in data else None,
            rules=parse_rules(data.get("rules", ""), name="rules of the recipe", recorded=True),
            vae=VaeChoice(data.get("vae", "merged")),
            dtype=SaveDtype(data["dtype"]) if "dtype" in data else None,
            force=_flag(data, "force"),
            drop_ema=_flag(data, "drop_ema"),
            loras=tuple(_lora_from_dict(lora) for lora in data.get("loras", ())),
            numbers=Numbers(data.get("numbers", {})),
            more=tuple(_more_from_dict(model) for model in data.get("more", ())),
            adjust=tuple(data["adjust"]) if "adjust" in data else None,
        )
    except KeyError as exc:
        raise RecipeError(f'The recipe lacks the entry "{exc.args[0]}".') from exc
    except (TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise RecipeError(f"The recipe cannot be read: {exc}.") from exc


def _flag(data: Mapping[str, Any], name: str) -> bool:
    value = data.get(name, False)
    if not isinstance(value, bool):
        raise TypeError(f"{name} is true or false")
    return value


def _refuse_unknown(data: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    """Refuse unknown names: ignoring them could give another merge than the one written down."""
    for name in data:
        if name not in allowed:
            raise RecipeError(f'The {where} has the unknown entry "{name}"{suggest(name, allowed)}')


def _source_to_dict(source: ModelSource) -> dict[str, Any]:
    if source.recipe is not None:
        return {"path": source.path, "recipe": source.recipe.to_dict()}
    return {"path": source.path, "sha256": source.sha256, "size": source.size}


def _source_from_dict(data: Mapping[str, Any]) -> ModelSource:
    if "recipe" in data:
        return _recipe_in_place(data)
    _refuse_unknown(data, ("path", "sha256", "size"), "model")
    path, sha256, size = data["path"], data.get("sha256"), data.get("size")
    if not isinstance(path, str) or not isinstance(sha256, str | None) or not isinstance(size, int | None):
        raise TypeError("a model is a path, a SHA-256 and a size")
    return ModelSource(path, sha256, size)


def _lora_to_dict(lora: LoraSource) -> dict[str, Any]:
    te = {} if lora.ratio_te is None else {"ratio_te": float(lora.ratio_te)}
    return {**_source_to_dict(lora.file), "ratio": float(lora.ratio), **te}


def _lora_from_dict(data: Mapping[str, Any]) -> LoraSource:
    _refuse_unknown(data, ("path", "sha256", "size", "ratio", "ratio_te"), "LoRA")
    file = _source_from_dict({name: value for name, value in data.items() if not name.startswith("ratio")})
    ratio_te = data.get("ratio_te")
    return LoraSource(file, float(data["ratio"]), None if ratio_te is None else float(ratio_te))


def _more_to_dict(model: MoreModel) -> dict[str, Any]:
    return {**_source_to_dict(model.file), "ratio": float(model.ratio)}


def _more_from_dict(data: Mapping[str, Any]) -> MoreModel:
    file = _source_from_dict({name: value for name, value in data.items() if name != "ratio"})
    return MoreModel(file, float(data["ratio"]))


def _recipe_in_place(data: Mapping[str, Any]) -> ModelSource:
    """Read a recipe in the place of a file."""
    _refuse_unknown(data, ("path", "recipe"), "recipe in the place of a model")
    path = data.get("path", UNNAMED)
    if not isinstance(path, str):
        raise TypeError("the path of a recipe is a text")
    return ModelSource(path or UNNAMED, recipe=recipe_from_dict(data["recipe"]))


def _check_models(recipe: MergeRecipe) -> None:
    mode = recipe.mode
    if mode.uses_c and recipe.model_c is None:
        raise RecipeError(f"{mode.value}, {mode.formula}, needs a third model C.")
    if not mode.uses_c and recipe.model_c is not None:
        others = ", ".join(m.value for m in MergeMode if m.uses_c)
        further = "; it takes further models, B2 and so on, where C could be one" if mode.takes_more else ""
        raise RecipeError(f"{mode.value}, {mode.formula}, has no model C: remove it, or choose {others}{further}.")
    if (recipe.vae is VaeChoice.FILE) != (recipe.vae_file is not None):
        raise RecipeError("A VAE file is given but not chosen as the source of the VAE, or chosen but not given.")


def _check_ratios(recipe: MergeRecipe) -> None:
    mode = recipe.mode
    rule_ratios = [ratio for rule in recipe.rules.rules for ratio in (rule.alpha, rule.beta)]
    if not all(math.isfinite(ratio or 0) for ratio in (recipe.alpha, recipe.beta, *rule_ratios)):
        raise RecipeError("alpha and beta must be finite numbers.")
    has_beta = recipe.beta is not None or recipe.block_beta is not None
    if has_beta and not mode.uses_beta:
        raise RecipeError(f"{mode.value}, {mode.formula}, has no beta; {_modes_with_beta()} have one.")
    if mode.uses_beta and recipe.beta is None and (recipe.block_beta is None or recipe.block_beta.base is None):
        raise RecipeError(f"{mode.value}, {mode.formula}, needs beta, or block weights for beta that include BASE.")


def _check_limits(recipe: MergeRecipe) -> None:
    """Refuse ratios with which the formula means nothing."""
    limits = recipe.mode.record.limits
    if limits is None:
        return
    weights = (number for part in (recipe.block_alpha, recipe.block_beta) if part for number in (*part.unet, part.base))
    ruled = (ratio for rule in recipe.rules.of_mode for ratio in (rule.alpha, rule.beta))
    for ratio in (recipe.alpha, recipe.beta, *weights, *ruled):
        if ratio is not None and not limits[0] <= ratio <= limits[1]:
            least, most = map(format_ratio, limits)
            raise RecipeError(f"{recipe.mode.value} takes ratios from {least} to {most}, not {format_ratio(ratio)}.")


def _check_rule_betas(recipe: MergeRecipe) -> None:
    if recipe.mode.uses_beta:
        return
    rules = recipe.rules
    message = f"{recipe.mode.value} has no beta: a rule has two colons"
    problems: list[SpecProblem] = [
        PlainProblem(span, message, f"Modes with beta: {_modes_with_beta()}.")
        for rule, span in zip(rules.rules, rules.spans, strict=True)
        if rule.beta is not None and not rule.target
    ]
    if problems:
        raise spec_error(problems, rules.source, name=rules.name)


def _check_loras(recipe: MergeRecipe) -> None:
    if not all(math.isfinite(ratio) for lora in recipe.loras for ratio in (lora.ratio, lora.in_text_encoders)):
        raise RecipeError("The ratio of a LoRA must be a finite number.")


def _modes_with_beta() -> str:
    return ", ".join(mode.value for mode in MergeMode if mode.uses_beta)
