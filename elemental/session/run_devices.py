"""Where the images of runs are made: by the host, or elsewhere, by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import HostError

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..merge.files.checkpoint import Signature
    from ..merge.files.model_locator import ModelLocator
    from ..merge.progress import Controls
    from ..runs.image_maker import ImageMaker
    from .session import Session

DEVICE = "device"
"""The option of a record that says on which kind of device a run was begun, as the command line keeps it, too."""
_OF_CLUSTERS = ("cpu", "cuda")


class Cluster(Protocol):
    """Devices besides the host's, whose workers can make the images of runs."""

    @property
    def name(self) -> str:
        """What the page calls it."""

    def begin(
        self, models: Mapping[str, Signature], locator: ModelLocator, *, device: str | None, controls: Controls
    ) -> AbstractContextManager[tuple[ImageMaker, str]]:
        """Begin workers, which end with the ``with`` block.

        Args:
            models: What each model file looks like here, by its path.
            locator: Finds the models.
            device: "cuda" or "cpu", where a run was begun on it; None for what the user wants.
            controls: Hears what is being done until they have begun, and tells when the user stops it.

        Returns:
            What gives what makes the images, and the device that was chosen.

        Raises:
            HostError: The cluster cannot be reached, or lacks something.
            Stopped: The user asked for it.
        """


@dataclass(frozen=True)
class RunDevices:
    """Where the images of runs can be made.

    Attributes:
        own: The device of the host, as torch names it; empty where that is not known, as in a WebUI.
        cluster: What else can make them; None for nothing.
        cluster_first: Whether a page begins with the cluster chosen.
    """

    own: str = ""
    cluster: Cluster | None = None
    cluster_first: bool = False


@dataclass(frozen=True)
class RunOrder:
    """What is to be known of a run before its first image.

    Attributes:
        elsewhere: Whether the page asks for the cluster.
        models: Gives what each model file looks like, by its path.
        options: Those that the run's record keeps, where it was begun before.
    """

    elsewhere: bool
    models: Callable[[], Mapping[str, Signature]]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RunMaker:
    """What makes the images of a run.

    Attributes:
        maker: The host, or workers.
        device: The kind of device; empty where that is not known.
        place: The name of the cluster; empty for the host.
        at_once: How many images are made at the same time.
    """

    maker: Host | ImageMaker
    device: str
    place: str = ""
    at_once: int = 1

    @property
    def options(self) -> dict[str, str]:
        """What a record keeps of it."""
        return {DEVICE: self.device} if self.device else {}


@contextmanager
def run_maker(session: Session, order: RunOrder, show: Callable[[str], None]) -> Iterator[RunMaker]:
    """Give what makes the images of a run until the ``with`` block ends.

    The user's merge is taken out of the host's model if the host makes them. Workers have models of their own.

    Args:
        session: The session of the page.
        order: What is known of the run.
        show: Shows what is being done until workers have begun.

    Raises:
        HostError: The run was begun on another kind of device; the workers cannot begin; or the host's model cannot be
            made what it was.
        Stopped: The user stopped it while workers began.
    """
    devices, began_on = session.devices, order.options.get(DEVICE, "")
    if devices.cluster is None or not order.elsewhere:
        if devices.own and began_on and _kind(devices.own) != _kind(began_on):
            raise _other_device(began_on, devices.own)
        with session.model.suspended():
            yield RunMaker(session.host, devices.own)
        return
    if began_on and _kind(began_on) not in _OF_CLUSTERS:
        raise _other_device(began_on, "workers")
    controls = replace(session.stop_controls(), stage=show)
    begun = devices.cluster.begin(order.models(), session.locator, device=_kind(began_on) or None, controls=controls)
    with begun as (maker, device):
        yield RunMaker(maker, device, devices.cluster.name, maker.at_once)


def _kind(device: str) -> str:
    """Give the kind of a device: "cuda" of "cuda:1"."""
    return device.partition(":")[0]


def _other_device(began_on: str, now: str) -> HostError:
    return HostError(
        f"This was begun on {began_on}; on {now} its images would not be the same. To go on with it, choose a place "
        f"that has {began_on}, or start elemental ui --device {began_on}."
    )
