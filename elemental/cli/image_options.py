"""The options of images: prompt, seed, size and so on, and the image request that they ask for."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from .command import UsageError, read_as, read_integer, read_number
from .standalone_host import DEFAULT_DEVICE

if TYPE_CHECKING:
    from ..images.image_request import ImageRequest

_SAMPLERS = "Euler a (default), Euler, DPM++ 2M Karras, DDIM, UniPC"


@dataclass(frozen=True)
class ImageOptions:
    """What was said of the images; None where nothing was.

    Attributes:
        device: Where to compute, as torch names it.
        prompt: The prompt.
        negative: The negative prompt.
        seed: The seed of the first image.
        steps: Sampling steps.
        sampler: The name of the sampler.
        cfg: The CFG scale.
        width: In pixels.
        height: In pixels.
        batch: How many images.
    """

    device: str | None = None
    prompt: str | None = None
    negative: str | None = None
    seed: int | None = None
    steps: int | None = None
    sampler: str | None = None
    cfg: float | None = None
    width: int | None = None
    height: int | None = None
    batch: int | None = None

    def request(self, base: ImageRequest | None = None) -> ImageRequest:
        """Make the request that the options ask for.

        Args:
            base: What was not said is taken from it; by default from the defaults.

        Raises:
            ImageError: A number is out of its range.
        """
        from ..images.image_request import ImageRequest

        names = [field.name for field in fields(self) if field.name != "device"]
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(base or ImageRequest(""), **said)


@dataclass(frozen=True)
class EachPromptAndSeed:
    """Images of several prompts, each with several seeds.

    Attributes:
        common: What they have in common.
        prompts: Their prompts.
        seeds: Their seeds.
    """

    common: ImageOptions
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def requests(self) -> tuple[ImageRequest, ...]:
        """Make the requests.

        Raises:
            ImageError: A number is out of its range.
        """
        common = self.common.request()
        return tuple(replace(common, prompt=prompt, seed=seed) for prompt in self.prompts for seed in self.seeds)


def read_each_prompt_and_seed(args: argparse.Namespace) -> EachPromptAndSeed:
    """Read the options of a command that takes prompts and seeds several times; repeated ones count once.

    Raises:
        UsageError: There is no prompt.
    """
    if not args.prompt:
        raise UsageError("a prompt is needed: --prompt TEXT, once or several times")
    prompts, seeds = (tuple(dict.fromkeys(values)) for values in (args.prompt, args.seed or (0,)))
    return EachPromptAndSeed(read_as(ImageOptions, args, prompt=None, seed=None), prompts, seeds)


def add_image_options(command: argparse.ArgumentParser, *, batch: bool = True, several: bool = False) -> None:
    """Declare the options of images.

    Args:
        command: The command that takes them.
        batch: Whether it can make several images at once.
        several: Whether prompts and seeds can be given several times; they are lists then.
    """
    group = command.add_argument_group("images")
    action, again = ("append", "; may be repeated") if several else ("store", "")
    group.add_argument("--prompt", action=action, metavar="TEXT", help=f"prompt{again}")
    group.add_argument("--negative", metavar="TEXT", help="negative prompt")
    more = " of the first image; each further image adds 1" if batch else again
    group.add_argument("--seed", action=action, type=read_integer, metavar="N", help=f"seed{more} (default: 0)")
    group.add_argument("--steps", type=read_integer, metavar="N", help="sampling steps (default: 20)")
    group.add_argument("--sampler", metavar="NAME", help=_SAMPLERS)
    group.add_argument("--cfg", type=read_number, metavar="X", help="CFG scale (default: 7)")
    group.add_argument("--width", type=read_integer, metavar="N", help="in pixels, a multiple of 8 (default: 512)")
    group.add_argument("--height", type=read_integer, metavar="N", help="in pixels, a multiple of 8 (default: 512)")
    if batch:
        group.add_argument("--batch", type=read_integer, metavar="N", help="number of images (default: 1)")
    add_device_option(group)


def add_device_option(group: argparse._ArgumentGroup) -> None:
    """Declare where to compute."""
    group.add_argument("--device", metavar="D", help=f"{DEFAULT_DEVICE} (default), cuda, cuda:1, mps")
