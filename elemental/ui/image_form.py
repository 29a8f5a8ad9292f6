"""The fields of an image request: prompt, sampler, size; for hosts without a page that has them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import ImageError
from ..hosts.base import Host, ImageOrder
from ..images.image_request import ImageRequest, choose_sampler, with_known_sampler

_SEEDS = 2**32 - 1000
_WHOLE_NUMBERS = {"steps": "Steps", "width": "Width", "height": "Height", "seed": "Seed", "batch": "Images"}


class ImageForm(Protocol):
    """The part of the tab that says what image is wanted; each host has its own."""

    own: bool
    """Whether its components are those of the tab, and not of another page of the host."""

    @property
    def components(self) -> Sequence[Any]:
        """The components whose values it reads."""

    def draw(self, make: Callable[..., Any]) -> None:
        """Make what it shows in the tab, which is being built.

        Args:
            make: Makes a component, as :func:`~.compat.make` does.
        """

    def read(self, values: Sequence[Any]) -> ImageOrder:
        """Read what is asked for.

        Args:
            values: Of the components, in order.

        Raises:
            ElementalError: It cannot be made.
        """


class StandaloneImageForm:
    """Prompt, sampler, size and seed.

    Args:
        host: What makes the images.
        start: What the fields say at first.
    """

    own = True

    def __init__(self, host: Host, start: ImageRequest) -> None:
        self._host = host
        self._start = start
        self._fields: dict[str, Any] = {}

    @property
    def components(self) -> Sequence[Any]:
        """The fields, in the order of their names here."""
        return list(self._fields.values())

    @property
    def fields(self) -> Mapping[str, Any]:
        """The fields by the names of those of an image request."""
        return self._fields

    def draw(self, make: Callable[..., Any]) -> None:
        """Make the fields.

        Args:
            make: Makes a component.

        Raises:
            HostError: The sampler that it shall start with is not known.
        """
        start = with_known_sampler(self._start, self._host.samplers())
        with make("Accordion", label="Prompt and size", open=True, elem_id="elemental_image"):
            self._draw_fields(make, start)

    def _draw_fields(self, make: Callable[..., Any], start: ImageRequest) -> None:
        self._fields["prompt"] = make(
            "Textbox", label="Prompt", value=start.prompt, lines=2, elem_id="elemental_prompt"
        )
        self._fields["negative"] = make(
            "Textbox", label="Negative prompt", value=start.negative, lines=1, elem_id="elemental_negative"
        )
        with make("Row", elem_id="elemental_numbers"):
            self._fields["sampler"] = make(
                "Dropdown", label="Sampler", choices=list(self._host.samplers()), value=start.sampler,
                elem_id="elemental_sampler", min_width=140, scale=2,
            )  # fmt: skip
            steps = {"steps": 1, "cfg": 0.5, "width": 8, "height": 8, "seed": 1, "batch": 1}
            for name, step in steps.items():
                self._fields[name] = make(
                    "Number", label=_WHOLE_NUMBERS.get(name, "CFG"), value=getattr(start, name), step=step,
                    elem_id=f"elemental_{name}", min_width=130 if name == "seed" else 70,
                    scale=2 if name == "seed" else 1,
                )  # fmt: skip

    def read(self, values: Sequence[Any]) -> ImageOrder:
        """Read what is asked for.

        Raises:
            ImageError: A number is missing or out of its range.
            HostError: The sampler is not known.
        """
        fields = dict(zip(self._fields, values, strict=True))
        numbers = {name: _whole(label, fields[name]) for name, label in _WHOLE_NUMBERS.items()}
        if numbers["batch"] < 1:
            raise ImageError(f"{_WHOLE_NUMBERS['batch']} must be 1 or more.")
        if numbers["seed"] == -1:
            numbers["seed"] = random.randrange(_SEEDS)
        try:
            cfg = float(fields["cfg"])
        except (TypeError, ValueError, OverflowError) as exc:
            raise ImageError(f"CFG {_shown(fields['cfg'])}; enter a number.") from exc
        sampler = choose_sampler(fields["sampler"] or "", self._host.samplers())
        prompt, negative = (fields[name] or "" for name in ("prompt", "negative"))
        return ImageOrder(ImageRequest(prompt, negative, sampler=sampler, cfg=cfg, **numbers))


def _whole(label: str, value: Any) -> int:
    try:
        number = int(value)
        if number != float(value):
            raise ValueError(value)
    except (TypeError, ValueError, OverflowError) as exc:
        raise ImageError(f"{label} {_shown(value)}; enter a whole number.") from exc
    return number


def _shown(value: Any) -> str:
    return "is blank" if value in (None, "") else f"is {value}"
