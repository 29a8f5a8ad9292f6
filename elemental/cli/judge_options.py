"""The options that say who judges the images of a search: a person, a function, how near they are to an image."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import UsageError, read_integer

if TYPE_CHECKING:
    from ..searches.judges import Score

MEASURES = ("mean", "ssim")
"""As :data:`..searches.judges.MEASURES`, which is not imported for help alone."""


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges; None where nothing was said.

    Attributes:
        pick: Whether a person picks.
        score: A Python function, as ``MODULE:FUNCTION``.
        toward: An image that the others are to be near to.
        measure: How the distance from it is measured.
        pick_after: After how many rounds of the function or the distance a person picks.
    """

    pick: bool | None = None
    score: str | None = None
    toward: Path | None = None
    measure: str | None = None
    pick_after: int | None = None

    @property
    def is_said(self) -> bool:
        """Whether anything was said."""
        return self != JudgeOptions()

    @property
    def name(self) -> str:
        """What messages call the function or the distance."""
        return self.score or f"--toward {self.toward}"

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            UsageError: Nobody judges, or too many do.
        """
        ways = [name for name in ("pick", "score", "toward") if getattr(self, name)]
        if not ways:
            raise UsageError("who judges? --pick (you), --score MODULE:FUNCTION or --toward IMAGE")
        if len(ways) > 1:
            also = "" if ways[0] != "pick" else "; to pick after some rounds: --pick-after N"
            raise UsageError(f"{' and '.join(f'--{way}' for way in ways)} do not go together{also}")
        if self.measure is not None and self.toward is None:
            raise UsageError("--measure goes with --toward")
        if self.pick_after is not None and (self.pick or self.pick_after < 1):
            raise UsageError("--pick-after goes with --score or --toward, and is 1 or more")

    def asks(self, round_number: int) -> bool:
        """Tell whether a person judges a round."""
        return bool(self.pick) or (self.pick_after is not None and round_number > self.pick_after)

    @property
    def asks_ever(self) -> bool:
        """Whether a person judges any round."""
        return bool(self.pick) or self.pick_after is not None

    def scorer(self, size: tuple[int, int]) -> Score | None:
        """Make what scores images; None if a person judges them all.

        Args:
            size: Width and height of the images, in pixels.

        Raises:
            ElementalError: The function cannot be imported, or the image cannot be read or has another size.
        """
        from ..searches.judges import read_score, toward

        if self.score is not None:
            return read_score(self.score)
        return toward(self.toward, self.measure or MEASURES[0], size) if self.toward is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Give the options as plain data that :func:`judge_from_dict` reads back."""
        return {**asdict(self), "toward": None if self.toward is None else str(self.toward.resolve())}


def judge_from_dict(data: Mapping[str, Any]) -> JudgeOptions:
    """Read what :meth:`JudgeOptions.to_dict` gave; what is not known is left out."""
    known: dict[str, Any] = {name: data.get(name) for name in asdict(JudgeOptions())}
    return JudgeOptions(**{**known, "toward": Path(known["toward"]) if known["toward"] else None})


def add_judge_options(command: argparse.ArgumentParser) -> None:
    """Declare who judges."""
    group = command.add_argument_group("who judges (one of the first three)")
    group.add_argument(
        "--pick", action="store_const", const=True, help="you: look at each round's sheet, type numbers; see below"
    )
    group.add_argument(
        "--score",
        metavar="MODULE:FUNCTION",
        help="a Python function that takes the list of a candidate's images (PIL) and gives a number, larger is better",
    )
    group.add_argument("--toward", type=Path, metavar="IMAGE", help="the nearer to this image, the better")
    group.add_argument(
        "--measure",
        choices=MEASURES,
        metavar="M",
        help="with --toward: mean (mean difference of pixels; default) or ssim (structural similarity)",
    )
    group.add_argument(
        "--pick-after", type=read_integer, metavar="N", help="with --score or --toward: you pick after N rounds"
    )
