"""LoRAs in the tab, in a browser: added from the host's list, merged, undone, kept, and back from the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elemental.cli.main import DONE, main
from elemental.hosts.base import CheckpointRef
from elemental.images.files import read_image, read_texts
from elemental.images.image_request import ImageRequest
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.files.metadata import recipe_from_metadata

from .browser import Page
from .conftest import save
from .lora_files import lora, with_name
from .noise_tab import kept
from .serving import Site, make_host

pytest.importorskip("gradio")

pytestmark = pytest.mark.slow

_LAYER = "lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn1_to_q"
_KEY = "model.diffusion_model.output_blocks.9.1.transformer_blocks.0.attn1.to_q.weight"


def put_lora(site: Site, name: str) -> Path:
    """Write a LoRA of one layer into the host's folder."""
    with Checkpoint(site.models / "a.safetensors") as file:
        shape = tuple(file.tensors[_KEY].shape)
    path = site.loras / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(path, with_name(_LAYER, lora(shape)))


def open_fold(tab: Page) -> None:
    if not tab.page.locator("#elemental_loras").is_visible():
        tab.page.locator("#elemental_lora_box > .label-wrap").click()
        tab.page.locator("#elemental_loras").wait_for()


def say(tab: Page, text: str) -> None:
    tab.wait(lambda: tab.read("loras") == text, f"the LoRAs {text!r}")


def test_a_lora_is_added_undone_kept_and_in_the_history(tab: Page, site: Site) -> None:
    open_fold(tab)
    assert f"There are no LoRAs in {site.models / 'loras'}" in tab.text("lora_hint")
    assert not tab.page.locator("#elemental_lora").is_visible()
    for name in ("style", "sub/detail"):
        put_lora(site, name)
    tab.press("refresh")
    tab.page.locator("#elemental_lora").wait_for()
    tab.wait(lambda: not tab.text("lora_hint").strip(), "no hint any more")
    tab.choose("lora", "style")
    say(tab, "style:1")
    tab.report("LoRA style.safetensors: 1 of 1 layers")
    assert tab.read("lora") == ""
    kept(tab, "style:1")
    tab.choose("lora", "detail")
    say(tab, "style:1\ndetail:1")
    tab.report("LoRA detail.safetensors: 1 of 1 layers")
    kept(tab, "detail:1")
    tab.screenshot("loras")

    undo = tab.page.locator("[data-step='-1']")
    tab.wait(undo.is_enabled, "something to undo")
    assert str(undo.get_attribute("title")).startswith("Undo: LoRAs")
    undo.click()
    say(tab, "style:1")
    tab.write("loras", "style:0.8\nstile")
    tab.report('No LoRA named "stile"; did you mean "style"?')
    tab.write("loras", "style:0.8")
    tab.report("LoRA style.safetensors: 1 of 1 layers")
    kept(tab, "style:0.8")
    tab.page.reload()
    tab.ready()
    open_fold(tab)
    say(tab, "style:0.8")

    tab.job("run_merge")
    assert "LoRA style 0.8" in tab.text("live")
    tab.write("loras", "")
    tab.wait(lambda: "LoRA" not in tab.text("report"), "a report without LoRAs")
    tab.panel("History")
    tab.press("refresh_history")
    tab.page.locator("#elemental_history [data-entry]").first.click()
    tab.page.locator("#elemental_spec").wait_for()
    open_fold(tab)
    say(tab, "style:0.8")
    tab.report("LoRA style.safetensors: 1 of 1 layers")
    tab.job("restore")


def test_the_image_is_that_of_the_merge_with_the_lora(tab: Page, site: Site, tmp_path: Path) -> None:
    path = put_lora(site, "style")
    tab.press("refresh")
    open_fold(tab)
    tab.choose("lora", "style")
    say(tab, "style:1")
    tab.write("loras", "style:0.8")
    tab.write("spec", "OUT09:attn2:1")
    tab.report("LoRA style.safetensors: 1 of 1 layers")
    tab.report("1 rule sets")
    tab.job("run_both")
    (image,) = (site.output / "images").glob("00000-3.png")
    (added,) = recipe_from_metadata(read_texts(image), name="the image").loras
    assert (added.file.name, added.ratio, added.ratio_te) == ("style.safetensors", 0.8, None)
    a, out = site.models / "a.safetensors", tmp_path / "ab.safetensors"
    words = [
        "merge",
        str(a),
        str(a.with_name("b.safetensors")),
        "-o",
        str(out),
        "--alpha",
        "0.5",
        "--elemental",
        "OUT09:attn2:1",
        "--lora",
        f"{path}:0.8",
    ]
    assert main(words) == DONE
    host = make_host(tmp_path, tmp_path / "out")
    host.open_model(CheckpointRef("ab", out))
    assert read_image(image).tobytes() == _image_of(host).tobytes()
    host.open_model(CheckpointRef("a", a))
    assert read_image(image).tobytes() != _image_of(host).tobytes()
    tab.job("restore")


def _image_of(host: Any) -> Any:
    request = ImageRequest("a red circle on blue", seed=3, steps=2, cfg=4.0, width=64, height=64)
    return host.make_images(request, model={})[0].image
