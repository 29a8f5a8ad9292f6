"""What stands above the element map, as HTML: tools, what the colours mean, and what is done with effects.

It is beside the map and not in it, so that nothing of it is lost when the map is drawn anew.
"""

from __future__ import annotations

_BRUSH = """
<label>Ratio <input id="elemental_brush" type="number" step="0.05" value="1"></label>
<label title="Drag over several blocks: from Ratio at the first to this at the last">to
<input id="elemental_brush_end" type="number" step="0.05" placeholder="same"></label>"""

_TOOLS = """
<fieldset><legend>Click or drag to</legend>
<label><input type="radio" name="elemental_tool" value="paint" checked><span>paint</span></label>
<label><input type="radio" name="elemental_tool" value="erase"><span>erase</span></label>
<label><input type="radio" name="elemental_tool" value="select"><span>select</span></label></fieldset>"""

_SELECTED = """
<div class="elemental-selected" hidden>
<output aria-live="polite"></output>
<button type="button" data-cells="paint">Set to ratio</button>
<button type="button" data-cells="erase">Erase</button>
<button type="button" data-cells="only" title="Remove all other rules">Only these</button>
<button type="button" data-cells="check" title="Fill in the Element check panel">Check these</button>
<button type="button" data-cells="none">Cancel</button>
</div>"""

_KEY = """
<ul class="elemental-key">
<li><i style="--v:0%"></i><span data-end="zero" data-ratio="0">0</span></li>
<li><i style="--v:50%"></i>0.5</li>
<li><i style="--v:100%"></i><span data-end="one" data-ratio="1">1</span></li>
<li><i class="below"></i>below 0</li><li><i class="above"></i>above 1</li>
<li><i class="ruled" style="--v:50%"></i>set by a rule</li><li><i class="kept"></i>not merged</li>
</ul>"""

_HELP = """
<details class="elemental-map-help"><summary>Keys and mouse</summary>
<p>A click on a block or on a row's name selects all of it; an arrow shows the rows of a kind of layer. A right click
shows what can be done with a cell. Arrow keys move, Shift extends, Enter paints, Delete erases, Esc cancels. In the
spec, Tab completes names (Esc, then Tab leaves it), and Ctrl+Enter runs.</p></details>"""

MAP_TOOLS = f'<div class="elemental-tools">{_TOOLS}{_BRUSH}{_KEY}{_HELP}</div>{_SELECTED}'

EFFECT_TOOLS = """
<div class="elemental-effect-tools" hidden>
<fieldset><legend>Colour by</legend>
<label><input type="radio" name="elemental_paint_by" value="ratio" checked><span>ratio</span></label>
<label hidden><input type="radio" name="elemental_paint_by" value="check"><span>check</span></label>
<label><input type="radio" name="elemental_paint_by" value="effect"><span>effect</span></label></fieldset>
<label>The first <input id="elemental_first" type="number" min="0" step="1" value="0"></label>
<input type="range" min="0" max="200" step="1" value="0" aria-label="the first cells by effect">
<output aria-live="polite"></output>
<button type="button" data-chosen="rules" title="Add rules with the paint ratio">Make rules of these</button>
<button type="button" data-chosen="check" title="Fill in the Element check panel">Check these</button>
</div>"""
