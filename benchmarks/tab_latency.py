"""Time from a key press in the tab's spec editor to the element map of what then stands there, and to build the tab.

Run ``python -m benchmarks.tab_latency [--rules 1000] [--keys 30]``; it needs Chromium (see tests/browser.py). Two
checkpoints with the keys of SDXL, in small widths, are chosen as models. A spec of so many rules stands in the editor,
and digits are typed behind it, each once the map of the last is there. The page's own clock measures from the key's
event to the first frame after the report with the text's stamp is on the page. Beside it stand the share of it that is
spent in Python on planning and drawing, and the time to import and build the tab, with torch and gradio loaded already.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from elemental.demo.layout import SDXL_LAYOUT, shrink, tensor_shapes
from elemental.hosts.standalone.host import StandaloneHost
from elemental.images.image_request import ImageRequest
from tests.browser import Page, browser

_ELEMENTS = ("attn1.to_k", "attn2.to_v", "ff.net.2", "norm1", "in_layers")
_MEASURE = """
() => new Promise((resolve) => {
    const area = document.querySelector("#elemental_spec textarea");
    const crc = (text) => {
        let found = -1;
        for (const byte of new TextEncoder().encode(text)) {
            found ^= byte;
            for (let bit = 0; bit < 8; bit++) found = found & 1 ? (found >>> 1) ^ 0xedb88320 : found >>> 1;
        }
        return ((found ^ -1) >>> 0).toString(16).padStart(8, "0");
    };
    let start = 0;
    let wanted = "";
    area.addEventListener("input", () => {
        start = performance.now();
        wanted = crc(area.value);
    }, {once: true});
    const look = () => {
        const report = document.querySelector(".elemental-report");
        if (start && report && report.dataset.stamp === wanted) {
            requestAnimationFrame(() => resolve(performance.now() - start));
        } else {
            requestAnimationFrame(look);
        }
    };
    window.elementalMeasured = null;
    look();
}).then((value) => { window.elementalMeasured = value; })
"""


def main() -> None:
    """Build the tab, type, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--keys", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        for seed, name in enumerate("ab"):
            _write(models / f"{name}.safetensors", seed)
        _measure(models, args.rules, args.keys)


def _measure(models: Path, rules: int, keys: int) -> None:
    import gradio

    host = StandaloneHost(models=models, output=models / "out")
    started = time.perf_counter()
    from elemental.session.session import session_of
    from elemental.ui.gradio_compat import serve
    from elemental.ui.image_form import StandaloneImageForm
    from elemental.ui.tab import make_tab

    page = make_tab(host, StandaloneImageForm(host, ImageRequest("")), standalone=True)
    built = time.perf_counter() - started
    _, url = serve(page, host="127.0.0.1", port=None, files=[], wait=False)
    spec = "\n".join(f"OUT0{n % 9}:{_ELEMENTS[n % 5]}:0.{n % 97:02}" for n in range(rules))
    with browser() as chromium:
        tab = Page(chromium.new_page(viewport={"width": 1280, "height": 1000}), models)
        tab.open(url)
        tab.write("spec", spec)
        tab.report(f"{rules:,} rules" if rules > 1 else "1 rule")
        times = [_press(tab, key) for key in range(keys)]
    session = session_of(host)
    started = time.perf_counter()
    for _ in range(10):
        session.previewer.look(session.form)
    in_python = (time.perf_counter() - started) / 10 * 1000
    page.close()
    ordered = sorted(times)
    print(f"gradio {gradio.__version__}, torch {torch.__version__}, {rules} rules, SDXL's 2,515 keys")
    print(f"building the tab           {built:7.3f} s   (limit 0.5)")
    print(f"key to map, median         {statistics.median(times):7.1f} ms  (limit 100)")
    print(f"key to map, 90 % within    {ordered[int(0.9 * len(ordered))]:7.1f} ms")
    print(f"of it planning and drawing {in_python:7.1f} ms")


def _press(tab: Page, key: int) -> float:
    tab.page.evaluate(_MEASURE.replace("() => new", "() => { new", 1).rstrip() + "; }")
    tab.page.locator("#elemental_spec textarea").press(str(key % 10))
    tab.wait(lambda: tab.page.evaluate("window.elementalMeasured") is not None, "the map", 10)
    return float(tab.page.evaluate("window.elementalMeasured"))


def _write(path: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Any] = {
        key: (torch.randn(shape, generator=generator) * 0.05).half()
        for key, shape in tensor_shapes(shrink(SDXL_LAYOUT, width=8, text_width=8)).items()
        if not key.endswith("position_ids")
    }
    save_file(state, path)


if __name__ == "__main__":
    main()
