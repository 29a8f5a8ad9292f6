/* What moves in the tab: the element map under the pointer, the sliders of the block weights, the completion of names in
   the spec, and the page's part of following a job. Everything about keys, ratios and rules comes from the server, in
   attributes; here it is only shown and put together. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const POLL_MS = 400; // while a job runs; five times as long otherwise
    const SETTLE_MS = 150;
    const RUN_BUTTONS = ["elemental_run_both", "elemental_run_plot", "elemental_run_check"];
    const BRIDGES = ["elemental_entry", "elemental_gif", "elemental_seen"];
    const STORE = "elemental"; // of this page alone, until it is closed

    let root = null;
    let tooltip = null;
    let drag = null; // {table, from: [row, column], to: [row, column]}
    let pointer = [0, 0];
    let count = 0; // of what was sent over a bridge, so that the same value is a change again
    let asked = 0; // when the server was asked last

    const byId = (id) => document.getElementById(id);
    const inputOf = (id) => document.querySelector(`#${id} textarea, #${id} input`);
    const visible = (element) => element && element.offsetParent !== null;

    function press(id) {
        const found = byId(id);
        const button = found && (found.tagName === "BUTTON" ? found : found.querySelector("button"));
        if (button) button.click();
    }

    function write(id, text) {
        const input = inputOf(id);
        if (!input) return;
        input.value = text;
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function send(bridge, text) {
        count += 1;
        write(`elemental_${bridge}`, `${text}\n${count}`);
    }

    /* ---- the report is about what stands in the editor ---- */

    const CRC = Uint32Array.from({length: 256}, (_, n) => {
        for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
        return n;
    });

    function stamp(text) {
        let crc = -1;
        for (const byte of new TextEncoder().encode(text)) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
        return ((crc ^ -1) >>> 0).toString(16).padStart(8, "0");
    }

    let settling = 0;

    function reconcile(tries = 8) {
        clearTimeout(settling);
        settling = setTimeout(() => {
            const report = root.querySelector(".elemental-report");
            const spec = inputOf("elemental_spec");
            if (!spec || (report && report.dataset.stamp === stamp(spec.value))) return;
            press("elemental_sync");
            if (tries > 1) reconcile(tries - 1);
        }, SETTLE_MS);
    }

    /* ---- the element map ---- */

    function headers(table) {
        return Array.from(table.tHead.rows[1].cells).slice(1);
    }

    function place(cell) {
        const row = cell.parentElement;
        return [row.sectionRowIndex, cell.cellIndex - 1];
    }

    function cellAt(table, [row, column]) {
        const found = table.tBodies[0].rows[row];
        return found ? found.cells[column + 1] : undefined;
    }

    function isElement(cell) {
        return cell && cell.classList.contains("e");
    }

    function describe(table, cell) {
        const head = headers(table)[cell.cellIndex - 1];
        const row = cell.parentElement.cells[0];
        const key = cell.dataset.key || head.dataset.prefix + row.dataset.name;
        const tensors = cell.dataset.count || "2";
        const rules = (cell.dataset.rules || "").split(" ").filter(Boolean).map((number) => {
            const rule = table.parentElement.querySelector(`.elemental-rules [data-rule="${number}"]`);
            return `rule ${number}: ${rule ? rule.textContent : ""}`;
        });
        const ratio = cell.dataset.note || `${table.dataset.ratio} ${cell.dataset.r}`;
        const why = cell.dataset.note ? [] : rules.length ? rules : ["from the block weights or the plain ratio"];
        return [`${head.dataset.block}  ${key}${tensors === "1" ? "" : `  (${tensors} tensors)`}`, ratio, ...why];
    }

    function showTooltip(table, cell, x, y) {
        if (!isElement(cell)) return hideTooltip();
        if (!tooltip) {
            tooltip = document.createElement("div");
            tooltip.id = "elemental_tooltip";
            tooltip.setAttribute("role", "tooltip");
            document.body.append(tooltip);
        }
        tooltip.textContent = describe(table, cell).join("\n");
        tooltip.hidden = false;
        const box = tooltip.getBoundingClientRect();
        tooltip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
        tooltip.style.top = `${y + 18 + box.height < innerHeight ? y + 18 : y - box.height - 10}px`;
    }

    /* The map is drawn anew under a pointer that does not move. */
    function renewTooltip() {
        if (!tooltip || tooltip.hidden) return;
        const found = document.elementFromPoint(...pointer);
        const cell = found && found.closest(".elemental-map td");
        if (cell) showTooltip(cell.closest("table"), cell, ...pointer);
        else hideTooltip();
    }

    function hideTooltip() {
        if (tooltip) tooltip.hidden = true;
    }

    function markSelection(table, from, to) {
        clearSelection();
        for (const cell of cellsBetween(table, from, to)) cell.classList.add("chosen");
    }

    function clearSelection() {
        for (const cell of root.querySelectorAll(".elemental-map .chosen")) cell.classList.remove("chosen");
    }

    function cellsBetween(table, from, to) {
        const [top, bottom] = [from[0], to[0]].sort((a, b) => a - b);
        const [left, right] = [from[1], to[1]].sort((a, b) => a - b);
        const found = [];
        for (let row = top; row <= bottom; row++) {
            for (let column = left; column <= right; column++) {
                const cell = cellAt(table, [row, column]);
                if (isElement(cell)) found.push(cell);
            }
        }
        return found;
    }

    /* One rule for all parts that are wanted in the same blocks. */
    function rulesFor(table, from, to, ratio) {
        const names = headers(table).map((head) => head.dataset.block);
        const order = [from[1], to[1]].sort((a, b) => a - b);
        const blocksOf = new Map();
        for (const cell of cellsBetween(table, from, to)) {
            const row = cell.parentElement.cells[0];
            const word = cell.dataset.word || names[cell.cellIndex - 1];
            const part = cell.dataset.word ? "" : cell.dataset.part || row.dataset.part;
            blocksOf.set(part, [...(blocksOf.get(part) || []), word]);
        }
        const partsOf = new Map();
        for (const [part, words] of blocksOf) {
            const blocks = shorten([...new Set(words)], names.slice(order[0], order[1] + 1));
            partsOf.set(blocks, [...(partsOf.get(blocks) || []), part]);
        }
        return Array.from(partsOf, ([blocks, parts]) => `${blocks}:${parts.join(" ")}:${ratio}`);
    }

    /* What was dragged over is a range; blocks in between that have no such element do no harm. */
    function shorten(words, dragged) {
        const inside = words.every((word) => dragged.includes(word));
        if (words.length < 3 || !inside) return words.join(" ");
        return `${words[0]}-${words[words.length - 1]}`;
    }

    function writeRules(table, from, to) {
        const brush = byId("elemental_brush");
        const ratio = brush && brush.value.trim() !== "" ? String(Number(brush.value)) : "1";
        const spec = inputOf("elemental_spec");
        let lines = spec.value.split("\n");
        for (const rule of rulesFor(table, from, to, ratio)) {
            const selector = rule.slice(0, rule.lastIndexOf(":") + 1);
            const same = (line) => line.startsWith(selector) && !/[:#,]/.test(line.slice(selector.length));
            lines = lines.filter((line) => !same(line)); // what says more than that rule is the user's own
            lines.push(rule);
        }
        write("elemental_spec", lines.filter((line, at) => line.trim() || at < lines.length - 1).join("\n").replace(/^\n+/, ""));
        reconcile();
    }

    function onMapPointer(event) {
        const cell = event.target.closest && event.target.closest(".elemental-map td");
        const table = cell && cell.closest("table");
        if (event.type === "mousedown" && isElement(cell) && event.button === 0 && table.dataset.ratio === "alpha") {
            drag = {table, from: place(cell), to: place(cell)};
            keyboard = {from: drag.from, to: drag.to};
            markSelection(table, drag.from, drag.to);
            event.preventDefault(); // no text is selected
            table.focus({preventScroll: true});
        } else if (event.type === "mouseover") {
            if (!cell) return hideTooltip();
            pointer = [event.clientX, event.clientY];
            if (drag && table === drag.table && cell.cellIndex > 0) {
                drag.to = place(cell);
                markSelection(table, drag.from, drag.to);
            }
            showTooltip(table, cell, event.clientX, event.clientY);
        } else if (event.type === "mouseout" && cell) {
            hideTooltip();
        }
    }

    function endDrag() {
        if (!drag) return;
        const {table, from, to} = drag;
        drag = null;
        clearSelection();
        if (table.isConnected) writeRules(table, from, to);
    }

    const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    let keyboard = null; // {from, to}: the cells that the keys have chosen, as a drag has

    function onMapKey(event, table) {
        const step = STEPS[event.key];
        if (step) {
            const to = keyboard ? nextCell(table, keyboard.to, step) : firstCell(table);
            keyboard = {from: keyboard && event.shiftKey ? keyboard.from : to, to};
            markSelection(table, keyboard.from, keyboard.to);
            const cell = cellAt(table, keyboard.to);
            const box = cell.getBoundingClientRect();
            cell.scrollIntoView({block: "nearest"});
            showTooltip(table, cell, box.left, box.bottom);
            table.setAttribute("aria-label", describe(table, cell).join(", "));
            event.preventDefault();
        } else if ((event.key === "Enter" || event.key === " ") && keyboard && table.dataset.ratio === "alpha") {
            writeRules(table, keyboard.from, keyboard.to);
            event.preventDefault();
        } else if (event.key === "Escape") {
            clearSelection();
            hideTooltip();
        }
    }

    /* The nearest cell with an element in the next row or column that has one; the same cell at the edge. */
    function nextCell(table, [row, column], [down, right]) {
        const cells = Array.from(table.querySelectorAll("td.e"), place);
        const ahead = ([r, c]) => (down ? (r - row) * down : (c - column) * right);
        const aside = ([r, c]) => Math.abs(down ? c - column : r - row);
        const found = cells.filter((at) => ahead(at) > 0).sort((a, b) => ahead(a) - ahead(b) || aside(a) - aside(b));
        return found[0] || [row, column];
    }

    function firstCell(table) {
        const cells = Array.from(table.querySelectorAll("td.e"));
        return place(cells.find((cell) => cell.cellIndex > 1) || cells[0]); // of the U-Net: BASE is the first column
    }

    /* ---- block weights: sliders and text ---- */

    function sliderBlocks(box) {
        const table = root.querySelector(".elemental-map");
        return table ? headers(table).map((head) => head.dataset.block) : box.dataset.blocks.split(" ");
    }

    function makeSlider(block) {
        const label = document.createElement("label");
        const name = document.createElement("span");
        const slider = document.createElement("input");
        const shown = document.createElement("output");
        name.textContent = block;
        Object.assign(slider, {type: "range", min: "-1", max: "2", step: "0.01", value: "0.5"});
        slider.dataset.block = block;
        slider.setAttribute("aria-label", `ratio of ${block}`);
        label.append(name, slider, shown);
        return label;
    }

    /* A U, as the data flows: down the left side, over the middle, up the right one. */
    function buildSliders(box) {
        const blocks = sliderBlocks(box);
        if (box.dataset.built === blocks.join(" ")) return;
        const half = (blocks.length - 2) / 2;
        const columns = [blocks.slice(0, 1 + half), blocks.slice(1 + half)].map((names) => {
            const column = document.createElement("div");
            column.append(...names.map(makeSlider));
            return column;
        });
        box.replaceChildren(...columns);
        box.dataset.built = blocks.join(" ");
        moveSliders(box);
    }

    /* The pieces of the text, which may leave BASE out, and which slider each belongs to. */
    function weights(box) {
        const text = (inputOf(box.dataset.field) || {value: ""}).value;
        const pieces = text.split(/[\s,]+/).filter(Boolean);
        const count = box.querySelectorAll("input").length;
        const offset = pieces.length === count - 1 ? 1 : 0;
        const right = pieces.length + offset === count && pieces.every((piece) => Number.isFinite(Number(piece)));
        return {pieces, offset, fits: right || pieces.length === 0};
    }

    function plainRatio() {
        const input = document.querySelector("#elemental_alpha input[type=number], #elemental_alpha input");
        return input ? Number(input.value) : 0.5;
    }

    function moveSliders(box) {
        const {pieces, offset, fits} = weights(box);
        box.classList.toggle("unused", pieces.length === 0 || !fits);
        Array.from(box.querySelectorAll("input")).forEach((slider, index) => {
            const piece = pieces[index - offset];
            slider.disabled = !fits || (pieces.length > 0 && index < offset);
            if (slider.dataset.held || !fits) return;
            const value = piece === undefined ? plainRatio() : Number(piece);
            slider.value = String(value);
            slider.nextElementSibling.textContent = String(Number(value.toFixed(3)));
        });
    }

    /* Only the number of the slider that moved is written: the others may be finer than a slider, or beyond its ends. */
    function onSlider(slider) {
        const box = slider.closest(".elemental-sliders");
        const sliders = Array.from(box.querySelectorAll("input"));
        const {pieces, offset} = weights(box);
        const numbers = pieces.length ? pieces : sliders.map(() => String(plainRatio()));
        numbers[sliders.indexOf(slider) - offset] = String(Number(slider.value));
        slider.nextElementSibling.textContent = slider.value;
        slider.dataset.held = "1";
        write(box.dataset.field, numbers.join(","));
        delete slider.dataset.held;
    }

    /* ---- the spec editor: Tab completes names ---- */

    function completions(area) {
        const before = area.value.slice(0, area.selectionStart);
        const piece = before.slice(Math.max(before.lastIndexOf(","), before.lastIndexOf("\n")) + 1);
        const field = piece.split(":").length - 1;
        const word = piece.split(/[\s:]/).pop();
        const table = root.querySelector(".elemental-map");
        if (!word || field > 1 || !table || piece.includes("#")) return {word, found: []};
        const names = field ? elementNames(table) : ["NOT", "TE", "VAE", ...headers(table).map((head) => head.dataset.block)];
        const start = word.toLowerCase();
        const found = names.filter((name) => name.toLowerCase().startsWith(start) && name !== word);
        return {word, found: found.length ? found : names.filter((name) => name.toLowerCase().includes(start) && name !== word)};
    }

    function elementNames(table) {
        const names = new Set();
        for (const row of table.tBodies[0].rows) {
            const part = row.cells[0].dataset.part;
            if (!part || part.startsWith("model.")) continue;
            const words = part.split(".");
            for (let end = 1; end <= words.length; end++) names.add(words.slice(0, end).join("."));
            words.filter((word) => /^[a-z]/.test(word)).forEach((word) => names.add(word));
        }
        return Array.from(names).filter((name) => !/^\d+$/.test(name)).sort();
    }

    let leaving = false; // the next Tab leaves the editor

    function complete(event, area) {
        const {word, found} = leaving ? {word: "", found: []} : completions(area);
        leaving = false;
        const list = completionList();
        if (!found.length) {
            list.hidden = true;
            return;
        }
        event.preventDefault();
        let common = found[0];
        for (const name of found) while (!name.toLowerCase().startsWith(common.toLowerCase())) common = common.slice(0, -1);
        const text = found.length === 1 ? found[0] : common.length > word.length ? common : word;
        leaving = text === word; // nothing to add: asked again, Tab does what it does elsewhere
        area.setRangeText(text, area.selectionStart - word.length, area.selectionStart, "end");
        area.dispatchEvent(new Event("input", {bubbles: true}));
        list.hidden = found.length === 1;
        list.textContent = found.slice(0, 40).join("   ");
    }

    function completionList() {
        let list = byId("elemental_completions");
        if (!list) {
            list = document.createElement("div");
            list.id = "elemental_completions";
            list.setAttribute("aria-live", "polite");
            byId("elemental_spec").append(list);
        }
        return list;
    }

    /* ---- keys ---- */

    function onKey(event) {
        const area = event.target;
        const inSpec = area.closest && area.closest("#elemental_spec");
        const table = area.closest && area.closest(".elemental-map");
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            const button = RUN_BUTTONS.find((id) => visible(byId(id)));
            if (button) press(button);
            event.preventDefault();
            event.stopPropagation(); // the WebUI would look for a Generate button of its own here
        } else if (event.key === "Tab" && inSpec && !event.shiftKey && !event.ctrlKey && !event.altKey) {
            complete(event, area);
        } else if (table) {
            onMapKey(event, table);
        } else if ((event.key === "Enter" || event.key === " ") && area.dataset && area.dataset.gif) {
            showGif(area);
            event.preventDefault();
        }
        if (event.key !== "Tab" && event.key !== "Shift") leaving = event.key === "Escape" && Boolean(inSpec);
        const list = byId("elemental_completions");
        if (event.key === "Escape" && list) list.hidden = true;
    }

    /* ---- following the server ---- */

    function onChange() {
        const report = root.querySelector(".elemental-report");
        const map = byId("elemental_map");
        if (report && map) map.classList.toggle("stale", report.classList.contains("error"));
        for (const box of root.querySelectorAll(".elemental-sliders")) buildSliders(box);
        renewTooltip();
        if (!root.dataset.ready && root.querySelector(".elemental-live[data-first]")) {
            root.dataset.ready = "1"; // the fields are filled with the same answer, in a moment
            setTimeout(() => {
                filled = true;
                restoreTexts();
            }, 200);
        }
        restoreTexts();
    }

    /* The page asks, so that a page that is left takes nothing with it. */
    function poll() {
        if (document.hidden || !visible(root)) return;
        const live = root.querySelector(".elemental-live");
        const message = root.querySelector("#elemental_progress .elemental-message");
        const job = live ? live.dataset.job : "";
        const running = message && message.classList.contains("running");
        const unseen = job && (!message || message.dataset.job !== job);
        if (!running && !unseen && Date.now() - asked < 5 * POLL_MS) return;
        asked = Date.now();
        press("elemental_poll");
    }

    /* What was typed on this page is still there after it was loaded anew; the rest the server knows. */
    let kept = {};
    let filled = false; // by the server, once; what is kept goes over that

    function fieldsToKeep() {
        const inputs = root.querySelectorAll("textarea, input[type=number]");
        return Array.from(inputs, (input) => [input.closest("[id^=elemental_]"), input]).filter(
            ([owner]) => owner && owner.id !== ROOT && !BRIDGES.includes(owner.id)
        );
    }

    function restoreTexts() {
        for (const [owner, input] of filled ? fieldsToKeep() : []) {
            if (input.dataset.seen) continue;
            input.dataset.seen = "1"; // panels may be built when they are opened
            const text = kept[owner.id];
            if (text === undefined || text === input.value) continue;
            setTimeout(() => {
                input.value = text;
                for (const type of ["input", "change", "blur"]) input.dispatchEvent(new Event(type, {bubbles: true}));
            }, 0);
        }
    }

    function keepTexts() {
        if (!filled) return;
        for (const [owner, input] of fieldsToKeep()) if (input.dataset.seen) kept[owner.id] = input.value;
        try {
            sessionStorage.setItem(STORE, JSON.stringify(kept));
        } catch {
            kept = {}; // there is no room for so much
        }
    }

    function readKept() {
        try {
            kept = JSON.parse(sessionStorage.getItem(STORE) || "{}");
        } catch {
            kept = {};
        }
    }

    function onInput(event) {
        const owner = event.target.closest("[id^=elemental_]");
        if (!owner) return;
        if (event.target.type === "range" && event.target.dataset.block) onSlider(event.target);
        if (owner.id === "elemental_spec") reconcile();
        for (const box of root.querySelectorAll(".elemental-sliders")) if (owner.id === box.dataset.field) moveSliders(box);
    }

    function onClick(event) {
        const entry = event.target.closest("[data-entry]");
        const gif = event.target.closest("[data-gif]");
        if (entry) send("entry", entry.dataset.entry);
        if (gif) showGif(gif);
    }

    function showGif(row) {
        send("gif", row.dataset.gif);
        const view = byId("elemental_gif_view");
        setTimeout(() => view && view.scrollIntoView({block: "nearest", behavior: "smooth"}), 600);
    }

    function watchWeights() {
        const known = new Map(); // a text that the server has set brings no event with it
        setInterval(() => {
            for (const box of root.querySelectorAll(".elemental-sliders")) {
                const text = `${(inputOf(box.dataset.field) || {value: ""}).value}|${plainRatio()}`;
                if (known.get(box.dataset.field) !== text) moveSliders(box);
                known.set(box.dataset.field, text);
            }
        }, 300);
    }

    function start() {
        root.dataset.started = "1";
        for (const type of ["mousedown", "mouseover", "mouseout"]) root.addEventListener(type, onMapPointer);
        document.addEventListener("mouseup", endDrag);
        root.addEventListener("keydown", onKey, true);
        root.addEventListener("keydown", (event) => {
            if (event.key === "Escape") event.stopPropagation(); // the WebUI would look for an Interrupt button here
        });
        root.addEventListener("input", onInput);
        root.addEventListener("click", onClick);
        let waiting = false;
        new MutationObserver(() => {
            if (waiting) return;
            waiting = true;
            requestAnimationFrame(() => {
                waiting = false;
                onChange();
            });
        }).observe(root, {childList: true, subtree: true});
        readKept();
        press("elemental_boot");
        setInterval(keepTexts, 500);
        watchWeights();
        reconcile();
        setInterval(poll, POLL_MS);
        onChange();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    setInterval(() => {
        const found = byId(ROOT);
        if (found && !found.dataset.started && inputOf("elemental_spec") && byId("elemental_boot")) {
            root = found;
            start();
        }
    }, 200);
})();
