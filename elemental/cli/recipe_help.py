"""What the help of commands says of modes, block weights and specs."""

from __future__ import annotations

from ..merge.files.model_locator import model_source
from ..modes.catalogue import MergeMode
from ..recipe.more_models import describe_more
from ..recipe.numbers import describe_number
from ..recipe.presets import BUILT_IN_PRESETS, read_presets
from ..workflows import user_presets_path


def _wrap(text: str, width: int) -> list[str]:
    import textwrap  # for help alone

    return textwrap.wrap(text, width, break_on_hyphens=False)


def _describe_mode(mode: MergeMode) -> list[str]:
    """Give a mode's formula, purpose and numbers, in lines."""
    purpose = _wrap(mode.record.purpose, 73)
    formula = _wrap(mode.formula, 73)
    numbers = [f"--number {number.name}=...  {describe_number(number)}" for number in mode.record.numbers]
    more = [f"--more FILE:RATIO  {describe_more(mode)}"] if mode.takes_more else []
    wrapped = [line for text in (*numbers, *more) for line in _wrap(text, 73)]
    return [f"  {mode.value}", *(f"      {line}" for line in (*formula, *purpose, *wrapped))]


def recipe_help() -> str:
    """Say what ``elemental merge --help`` says of modes, block weights and specs."""
    presets = _wrap(", ".join(read_presets(BUILT_IN_PRESETS)), 77)
    lines = [
        "modes (a is alpha, b is beta):",
        *(line for mode in MergeMode for line in _describe_mode(mode)),
        "",
        "block weights (MBW): 26 numbers, BASE first (SDXL: 20); with 25 (SDXL: 19), BASE",
        "uses alpha. Or a preset (OUT07 and OUT12 are presets here, not blocks):",
        *(f"  {line}" for line in presets),
        'Put your own presets, one "NAME: numbers" per line, in',
        f"  {model_source(user_presets_path()).path}",
        "",
        "spec: rules, separated by commas or newlines; the last rule that matches wins:",
        "  blocks:elements:ratio        OUT03 OUT04 OUT05:attn2 attn1.to_out:0.5",
        "  blocks:elements:ratio:beta   IN00-IN05::0.2:0.1   (modes with beta)",
        "  B2 blocks:elements:ratio     B2 OUT03:attn2:0.5   (of a further model, --more)",
        "  lora.NAME blocks:elements:ratio   lora.detail OUT03-OUT05:attn2:0.3",
        "    sets the ratio of a LoRA there: NAME is its file without folders and ending,",
        "    with _ for blanks, colons, commas and #; capitals do not matter.",
        "  Blocks are BASE (TE and VAE), IN00.., M00, OUT00.., or ranges (IN03-OUT02).",
        "  Elements match by any part of their name (elemental inspect CKPT --elements).",
        "  Leave a field empty to match all; a leading NOT matches all but those named.",
        '  "#" starts a comment.',
    ]
    return "\n".join([*lines, ""])


SHORT_RECIPE_HELP = """\
Use --alpha 0 if only your rules should change model A; alpha is 0.5 by default.
Modes, presets and rules are explained in: elemental merge --help
"""
"""What the help of the other commands that merge says of them."""
