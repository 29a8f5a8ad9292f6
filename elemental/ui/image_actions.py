"""What the buttons below images do: an image is sent to a page of the host, or its folder is opened."""

from __future__ import annotations

import itertools
import time
from html import escape
from pathlib import Path
from typing import Any

from ..errors import ElementalError, ImageError
from ..images.files import read_image
from ..session.sent_images import find_original, read_infotext
from ..session.session import Session
from .answer import Answer, Updates
from .gradio_compat import cache_folder, make, on
from .image_buttons import FOLDER
from .request_guard import file_below
from .results_panel import draw_message


class ImageActions:
    """The hidden components through which images are sent, and what they do.

    Args:
        session: Of the host.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers = itertools.count(time.time_ns() // 1_000_000)
        self._pages = tuple(session.host.image_pages())
        self._open_folder = session.host.folder_opener()
        self.asked = make("Textbox", value="", elem_id="elemental_send", label="send")
        self.ready = make("HTML", value="", elem_id="elemental_sent")
        self._source: list[Any] = []
        if self._pages:
            self._draw_source()

    def _draw_source(self) -> None:
        """Make what the host's pages are filled from, and a button for each of them."""
        infotext = make("Textbox", value="", elem_id="elemental_sent_text", label="infotext")
        image = make("Image", type="pil", format="png", interactive=False, elem_id="elemental_sent_image")
        self._source = [infotext, image]
        for page in self._pages:
            button = make("Button", value=page, elem_id=f"elemental_to_{page}")
            self._session.host.wire_image_page(page, button=button, infotext=infotext, image=image)

    def wire(self, notice: Answer) -> None:
        """Answer what the page asks.

        Args:
            notice: Where it is said what cannot be done.
        """

        def act(asked: str) -> Updates:
            what, path = [*asked.split("\n"), ""][:2]
            try:
                file = self._find(path)
                return self._open(file) if what == FOLDER else {**notice.give(""), **self._send(what, file)}
            except ElementalError as exc:
                return notice.give(draw_message("failed", str(exc)))

        on(self.asked, "change", act, [self.asked], [self.ready, *self._source, *notice.outputs])

    def _find(self, path: str) -> Path:
        file = file_below(path, [self._session.host.output_folder(), cache_folder()])
        if file is None:
            raise ImageError("This image is gone.")
        return file

    def _send(self, page: str, file: Path) -> Updates:
        """Fill what the host's page is filled from; the page then presses that button."""
        if page not in self._pages:
            raise ImageError(f'There is no page "{page}" here.')
        infotext, image = self._source
        mark = f'<i data-page="{escape(page)}" data-number="{next(self._numbers)}"></i>'
        return {infotext: read_infotext(file), image: read_image(file), self.ready: mark}

    def _open(self, file: Path) -> Updates:
        if self._open_folder is not None:
            self._open_folder(find_original(self._session, file).parent)
        return {}
