"""Errors of the WebUI and of other extensions, in words for the user."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from modules import devices

from ...errors import ElementalError, HostError
from ...merge.out_of_memory import is_out_of_memory


@contextmanager
def as_host_errors() -> Iterator[None]:
    """Turn the errors of the WebUI and of other extensions into HostErrors.

    Raises:
        ElementalError: An error of this program, unchanged.
        HostError: Any other error.
    """
    try:
        yield
    except ElementalError:
        raise
    except Exception as exc:  # scripts of other extensions may raise anything
        raise HostError(describe_error(exc)) from exc


def describe_error(error: Exception) -> str:
    """Describe an error, with advice where there is any; memory that the failed code still holds is freed."""
    if is_out_of_memory(error):
        traceback.clear_frames(error.__traceback__)  # otherwise its tensors live as long as the error
        devices.torch_gc()
        return "Out of memory: make smaller or fewer images, or start the WebUI with --medvram."
    if isinstance(error, devices.NansException):
        return f"The model computed no numbers (NaN): {_first_line(error)}"
    return f"{type(error).__name__}: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no reason given"
