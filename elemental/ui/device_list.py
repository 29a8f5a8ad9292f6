"""The list of where the images of plots, checks and searches are made, on pages that have a choice."""

from __future__ import annotations

from typing import Any

from ..session.session import Session
from .gradio_compat import make

_INFO = "On Ray, each run first starts programs on its devices, which takes some seconds."


class DeviceList:
    """The list; without a cluster there is none.

    Args:
        session: Of the host.

    Attributes:
        fields: The list by its name, if there is one.
    """

    def __init__(self, session: Session) -> None:
        self.fields: dict[str, Any] = {}
        devices = session.devices
        if devices.cluster is None:
            return
        choices = [f"this device ({devices.own})", devices.cluster.name]
        self.fields["made_on"] = make(
            "Dropdown", label="Make plots, checks and searches on", choices=choices, info=_INFO,
            value=choices[int(devices.cluster_first)], elem_id="elemental_made_on",
        )  # fmt: skip
        self._cluster = devices.cluster.name

    @property
    def components(self) -> list[Any]:
        """The components whose values :meth:`split` reads, the last of an event's inputs."""
        return list(self.fields.values())

    def split(self, values: tuple[Any, ...]) -> tuple[tuple[Any, ...], bool]:
        """Take what the list says from the end of the values of an event.

        Returns:
            The other values, and whether the cluster is chosen.
        """
        return (values[:-1], values[-1] == self._cluster) if self.fields else (values, False)
