"""What goes wrong inside the WebUI, in words for its user."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from modules import devices

from ...errors import ElementalError, HostError
from ...merge.out_of_memory import is_out_of_memory


@contextmanager
def as_host_errors() -> Iterator[None]:
    """Make whatever the host and its extensions raise the port's error.

    Raises:
        ElementalError: One of this package, as it was raised.
        HostError: Something else was raised.
    """
    try:
        yield
    except ElementalError:
        raise
    except Exception as exc:  # any script of any extension runs within
        raise HostError(describe_error(exc)) from exc


def describe_error(error: Exception) -> str:
    """Say what an error means, and what can be done; memory that a failed job still holds is let go."""
    if is_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # else its tensors live as long as the error is kept
        devices.torch_gc()
        return "The memory is too small for this; ask for smaller or fewer images, or start with --medvram."
    if isinstance(error, devices.NansException):
        return f"The model computed no numbers (NaN): {_first_line(error)}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
