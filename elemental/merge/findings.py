"""What is found out about the models while a plan is executed."""

from __future__ import annotations

from typing import NamedTuple

from .plan import Role


class Findings(NamedTuple):
    """Inputs that hold NaN or infinite numbers, by model and key."""

    not_finite: tuple[tuple[Role, str], ...] = ()
