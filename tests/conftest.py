"""Small layouts with the keys of real checkpoints."""

from __future__ import annotations

from dataclasses import replace

from elemental.demo.layout import SD1_LAYOUT, SD2_LAYOUT, SDXL_LAYOUT, shrink

LAYOUTS = {
    "sd1": shrink(SD1_LAYOUT, width=8, text_width=8),
    "sd2": shrink(SD2_LAYOUT, width=8, text_width=8),
    "sdxl": shrink(SDXL_LAYOUT, width=8, text_width=8),
}
INPAINTING = {name: replace(layout, in_channels=9) for name, layout in LAYOUTS.items()}
