/* What moves in the tab: the element map under the pointer, the sliders of the block weights, the completion of names in
   the spec, and the page's part of following a job. Everything about keys, ratios and rules comes from the server, names
   and words in attributes, rules for chosen cells as the editor's new text. Of a rule this script knows only which marks
   end it, and that names of elements come after its first colon. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const POLL_MS = 400; // while a job runs
    const IDLE_MS = 10000; // while none does, since another page may begin one
    const PRESENT_MS = 2000; // the same, when somebody moves about in the tab
    const ANSWER_MS = 3000; // without an answer the server is asked again
    const MOST_TRIES = 3;
    const KEEP_MS = 500;
    const FILL_MS = 10000; // the fields are filled long before, if they can be
    const BOOT_MS = 250; // gradio does not listen yet when its buttons are on the page, and leaves out a second request
    const SETTLE_MS = 150;
    const RUN_BUTTONS = ["elemental_run_both", "elemental_run_plot", "elemental_run_check"];
    const BRIDGES = ["elemental_entry", "elemental_gif", "elemental_seen", "elemental_paint"];
    const STORE = "elemental"; // of this page alone, until it is closed

    let root = null;
    let tooltip = null;
    let drag = null; // {table, from: [row, column], to: [row, column]}
    let pointer = [0, 0];
    let count = 0; // of what was sent over a bridge, so that the same value is a change again

    const byId = (id) => document.getElementById(id);
    const inputOf = (id) => document.querySelector(`#${id} textarea, #${id} input`);
    const visible = (element) => element && element.offsetParent !== null;

    function press(id) {
        const owner = byId(id);
        const button = owner && (owner.tagName === "BUTTON" ? owner : owner.querySelector("button"));
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
        return String(count);
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
    let newest = 0; // the number of the last report that was seen

    /* An answer that comes late takes the place of a later one: then the server is asked again. */
    function watchOrder(report) {
        const number = report ? Number(report.dataset.number) : 0;
        if (begun && number < newest) press("elemental_sync");
        newest = Math.max(newest, number);
    }

    function reconcile(tries = 8) {
        clearTimeout(settling);
        if (!filled) return; // the server would take the fields as blank
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
        const line = table.tBodies[0].rows[row];
        return line ? line.cells[column + 1] : undefined;
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
        const why = cell.dataset.note ? [] : rules.length ? rules : [head.dataset.source || table.dataset.source];
        const name = `${head.dataset.block}  ${key}${tensors === "1" ? "" : `  (${tensors} tensors)`}`;
        return [name, ...describeEffect(table, cell), ratio, ...why];
    }

    function describeEffect(table, cell) {
        const {effect, rank, share, most} = cell.dataset;
        if (effect === undefined) return [];
        const whole = `estimate ${effect} of 255, rank ${rank} of ${table.dataset.ranked}, ${share} of the change`;
        return [most ? `${whole} (most: ${most})` : whole];
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
        const under = document.elementFromPoint(...pointer);
        const cell = under && under.closest(".elemental-map td");
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
        const cells = [];
        for (let row = top; row <= bottom; row++) {
            for (let column = left; column <= right; column++) {
                const cell = cellAt(table, [row, column]);
                if (isElement(cell)) cells.push(cell);
            }
        }
        return cells;
    }

    /* Chosen cells whose rules are not in the editor yet. Only the first is asked about: up to gradio 3 a second request
       would be dropped. */
    const strokes = []; // {cells, asks, tries, text}: JSON, numbers of requests, how many, the editor's text then
    let asking = 0;

    function writeRules(table, from, to) {
        const [left, right] = [from[1], to[1]].sort((a, b) => a - b);
        const columns = headers(table).slice(left, right + 1).map((head) => head.dataset.block);
        queueStroke({columns, cells: namesOf(table, cellsBetween(table, from, to))});
    }

    /* What a rule calls each cell: its block, and the part of the element's name. */
    function namesOf(table, cells) {
        const heads = headers(table);
        return cells.map((cell) => {
            const {word, part} = cell.dataset;
            const row = cell.parentElement.cells[0];
            return [word ?? heads[cell.cellIndex - 1].dataset.block, part ?? row.dataset.part];
        });
    }

    function queueStroke(chosen) {
        const brush = byId("elemental_brush");
        const cells = JSON.stringify({...chosen, ratio: brush ? brush.value : ""});
        strokes.push({cells, asks: [], tries: 0, text: ""});
        if (strokes.length === 1) askForRules();
    }

    function askForRules() {
        clearTimeout(asking);
        if (strokes.length && strokes[0].tries === MOST_TRIES) strokes.shift();
        if (!strokes.length) return;
        const stroke = strokes[0];
        stroke.tries += 1;
        stroke.text = inputOf("elemental_spec").value;
        stroke.asks.push(send("paint", stroke.cells)); // the server gets the editor's text with it
        asking = setTimeout(askForRules, ANSWER_MS);
    }

    /* What was typed after the question is not lost: the answer counts only for the text that it was made of. */
    function takeRules() {
        const answer = root.querySelector("#elemental_painted [data-number]");
        const stroke = strokes[0];
        if (!answer || !stroke || !stroke.asks.includes(answer.dataset.number)) return;
        const spec = inputOf("elemental_spec");
        if (answer.dataset.stamp === stamp(spec.value)) {
            strokes.shift();
            write("elemental_spec", JSON.parse(answer.textContent));
            reconcile();
        } else {
            stroke.asks = [];
            if (spec.value !== stroke.text) stroke.tries = 0;
        }
        askForRules();
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
        const next = cells.filter((at) => ahead(at) > 0).sort((a, b) => ahead(a) - ahead(b) || aside(a) - aside(b));
        return next[0] || [row, column];
    }

    function firstCell(table) {
        const cells = Array.from(table.querySelectorAll("td.e"));
        return place(cells.find((cell) => cell.cellIndex > 1) || cells[0]); // of the U-Net: BASE is the first column
    }

    /* ---- effects: the switch, the first cells, and what is made of them ---- */

    const effectTable = () => root.querySelector(".elemental-map[data-effects]");
    const effectTools = () => root.querySelector(".elemental-effect-tools");
    const ranked = (table) => Number(table.dataset.ranked);
    let effectsSeen = ""; // which effects the map had last

    /* The map is drawn anew with each look at the form; what was chosen beside it stays. */
    function showEffects() {
        const table = effectTable();
        const tools = effectTools();
        if (!tools) return;
        tools.hidden = !table;
        if (table && table.dataset.effects !== effectsSeen) {
            effectsSeen = table.dataset.effects;
            paintBy(kept.paint_by === `${effectsSeen} ratio` ? "ratio" : "effect"); // new ones are what was asked for
        }
        if (table) showFirst();
    }

    function paintBy(what) {
        root.dataset.paint = what;
        effectTools().querySelector(`[value="${what}"]`).checked = true;
        kept.paint_by = `${effectsSeen} ${what}`;
    }

    function firstCount() {
        const count = Math.round(Number(byId("elemental_first").value));
        return Math.max(0, Math.min(ranked(effectTable()), count || 0));
    }

    function firstCells(table) {
        const cells = Array.from(table.querySelectorAll("td.first"));
        return cells.sort((one, other) => one.dataset.rank - other.dataset.rank);
    }

    /* The slider goes from none over 1 to all in steps of equal factors. */
    function moveFirst(slider) {
        const steps = Number(slider.max) - 1;
        const count = slider.value === "0" ? 0 : ranked(effectTable()) ** ((slider.value - 1) / steps);
        byId("elemental_first").value = String(Math.round(count));
    }

    function showFirst() {
        const table = effectTable();
        const count = firstCount();
        let tensors = 0;
        for (const cell of table.querySelectorAll("td[data-rank]")) {
            const first = Number(cell.dataset.rank) <= count;
            cell.classList.toggle("first", first);
            if (first) tensors += Number(cell.dataset.count || 2);
        }
        const tools = effectTools();
        const slider = tools.querySelector("[type=range]");
        const step = 1 + ((Number(slider.max) - 1) * Math.log(count)) / (Math.log(ranked(table)) || 1);
        if (document.activeElement !== slider) slider.value = String(count ? step : 0);
        for (const button of tools.querySelectorAll("button")) button.disabled = !count;
        const share = table.dataset.together.split("|")[count - 1];
        const said = count ? `of ${ranked(table)}: ${tensors} tensors, ${share} of the change` : `of ${ranked(table)}`;
        const output = tools.querySelector("output");
        if (output.textContent !== said) output.textContent = said; // each change of the page leads here
    }

    function onEffectTools(input) {
        if (input.type === "radio") paintBy(input.value);
        if (!effectTable()) return;
        if (input.type === "range") moveFirst(input);
        showFirst();
    }

    /* Cells of the same rows that are not chosen go along, under all names of theirs: no range may reach over them. */
    function ruleFirst(table) {
        const cells = firstCells(table);
        const rows = new Set(cells.map((cell) => cell.parentElement));
        const others = Array.from(rows).flatMap((row) => {
            const left = Array.from(row.querySelectorAll("td.e:not(.first)"));
            const names = namesOf(table, left);
            return [...names, ...names.map(([block]) => [block, row.cells[0].dataset.part])];
        });
        const columns = headers(table).map((head) => head.dataset.block);
        queueStroke({columns, cells: namesOf(table, cells), others});
    }

    function checkFirst(table) {
        const names = namesOf(table, firstCells(table)).map((pair) => pair.filter(Boolean).join(":"));
        openPanel("Element check");
        writeWhenThere("elemental_elements", names.join("\n"), Date.now());
    }

    /* gradio 3 has plain buttons; later ones have tabs, and hidden copies of them that are plain buttons. */
    function openPanel(name) {
        const buttons = Array.from(root.querySelectorAll("#elemental_panels button"));
        const panels = buttons.filter((button) => visible(button) && button.textContent.trim() === name);
        const panel = panels.find((button) => button.getAttribute("role") === "tab") || panels[0];
        if (panel) panel.click();
    }

    /* Panels may be built when they are opened. */
    function writeWhenThere(id, text, since) {
        if (inputOf(id)) write(id, text);
        else if (Date.now() - since < ANSWER_MS) setTimeout(() => writeWhenThere(id, text, since), SETTLE_MS);
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
        const number = document.createElement("output");
        name.textContent = block;
        Object.assign(slider, {type: "range", min: "-1", max: "2", step: "0.01", value: "0.5"});
        slider.dataset.block = block;
        slider.setAttribute("aria-label", `ratio of ${block}`);
        label.append(name, slider, number);
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
    }

    /* The pieces of the text, which may leave BASE out, and which slider each belongs to. */
    function weights(box) {
        const text = (inputOf(box.dataset.field) || {value: ""}).value;
        const pieces = text.split(/[\s,]+/).filter(Boolean);
        const count = box.querySelectorAll("input").length;
        const offset = pieces.length === count - 1 ? 1 : 0;
        const complete = pieces.length + offset === count && pieces.every((piece) => Number.isFinite(Number(piece)));
        return {pieces, offset, fits: complete || pieces.length === 0};
    }

    function plainRatio() {
        const input = document.querySelector("#elemental_alpha input[type=number], #elemental_alpha input");
        return input ? Number(input.value) : 0.5;
    }

    /* Also after each report: a text that the server has set brings no event with it, but a new report. */
    function moveSliders(box) {
        const said = [box.dataset.built, (inputOf(box.dataset.field) || {value: ""}).value, plainRatio()].join("|");
        if (box.dataset.said === said) return;
        box.dataset.said = said;
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
        const list = root.querySelector(".elemental-names");
        if (!word || field > 1 || !list || piece.includes("#")) return {word, matches: []};
        const names = (field ? list.dataset.elements : list.dataset.blocks).split(" ").filter((name) => name !== word);
        const typed = word.toLowerCase();
        const beginning = names.filter((name) => name.toLowerCase().startsWith(typed));
        const matches = beginning.length ? beginning : names.filter((name) => name.toLowerCase().includes(typed));
        return {word, matches};
    }

    let leaving = false; // the next Tab leaves the editor

    function complete(event, area) {
        const {word, matches} = leaving ? {word: "", matches: []} : completions(area);
        leaving = false;
        const list = completionList();
        if (!matches.length) {
            list.hidden = true;
            return;
        }
        event.preventDefault();
        let common = matches[0];
        for (const name of matches) while (!name.toLowerCase().startsWith(common.toLowerCase())) common = common.slice(0, -1);
        const text = matches.length === 1 ? matches[0] : common.length > word.length ? common : word;
        leaving = text === word; // nothing to add: asked again, Tab does what it does elsewhere
        area.setRangeText(text, area.selectionStart - word.length, area.selectionStart, "end");
        area.dispatchEvent(new Event("input", {bubbles: true}));
        list.hidden = matches.length === 1;
        list.textContent = matches.slice(0, 40).join("   ");
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
        watchOrder(report);
        for (const box of root.querySelectorAll(".elemental-sliders")) {
            buildSliders(box);
            moveSliders(box);
        }
        showEffects();
        takeRules();
        noteEnd();
        follow();
        renewTooltip();
        if (!root.dataset.ready && root.querySelector(".elemental-live[data-first]")) {
            root.dataset.ready = "1"; // the fields are filled with the same answer, in a moment
            begin();
            setTimeout(() => {
                filled = true;
                restoreTexts();
                reconcile();
            }, 200);
        }
        restoreTexts();
    }

    /* The page asks, so that a page that is left takes nothing with it; while nobody can see the tab, it does not ask. */
    let asked = 0; // when the server was asked last
    let due = 0; // when it will be asked next; 0 for never
    let following = 0;
    let begun = false; // an earlier answer would take the place of what fills the fields

    function begin() {
        if (begun) return;
        begun = true;
        follow();
    }

    function boot(since) {
        if (begun || !root.isConnected) return;
        press("elemental_boot");
        if (Date.now() - since < FILL_MS) setTimeout(() => boot(since), BOOT_MS);
        else {
            begin();
            filled = true;
        }
    }

    function jobRuns() {
        const live = root.querySelector(".elemental-live");
        const message = root.querySelector("#elemental_progress .elemental-message");
        const job = live ? live.dataset.job : "";
        const unseen = job && (!message || message.dataset.job !== job);
        return Boolean(unseen || (message && message.classList.contains("running")));
    }

    const watched = () => begun && !document.hidden && visible(root);

    function follow() {
        const seen = watched();
        const next = asked + (jobRuns() ? POLL_MS : IDLE_MS);
        if (seen && due && due <= next) return;
        clearTimeout(following);
        due = seen ? Math.max(next, Date.now() + 1) : 0;
        if (seen) following = setTimeout(ask, due - Date.now());
    }

    function ask() {
        due = 0;
        if (watched()) {
            asked = Date.now();
            press("elemental_poll");
        }
        follow();
    }

    function onPresence() {
        if (Date.now() - asked > PRESENT_MS) ask();
    }

    function onVisibility() {
        if (document.hidden) keepTexts();
        onPresence();
        follow();
    }

    let ran = false; // a job, when it was looked last

    /* When a job has ended, the list of unfinished runs can be another one, and the map can show other effects. */
    function noteEnd() {
        const runs = jobRuns();
        if (ran && !runs) {
            press("elemental_list_runs");
            press("elemental_sync");
        }
        ran = runs;
    }

    /* What was typed on this page is still there after it was loaded anew; the rest the server knows. */
    let kept = {};
    let filled = false; // by the server, once; what is kept goes over that
    let keeping = 0;

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
        if (event.target.closest(".elemental-effect-tools")) onEffectTools(event.target);
        if (owner.id === "elemental_spec") reconcile();
        for (const box of root.querySelectorAll(".elemental-sliders")) moveSliders(box);
        clearTimeout(keeping);
        keeping = setTimeout(keepTexts, KEEP_MS);
    }

    function onClick(event) {
        const entry = event.target.closest("[data-entry]");
        const gif = event.target.closest("[data-gif]");
        const chosen = event.target.closest("[data-chosen]");
        if (chosen && effectTable()) (chosen.dataset.chosen === "rules" ? ruleFirst : checkFirst)(effectTable());
        if (entry) send("entry", entry.dataset.entry);
        if (gif) showGif(gif);
        if (event.target.closest("[data-take]")) {
            openPanel("Merge");
            press("elemental_take");
        }
    }

    function showGif(row) {
        send("gif", row.dataset.gif);
        const view = byId("elemental_gif_view");
        setTimeout(() => view && view.scrollIntoView({block: "nearest", behavior: "smooth"}), 600);
    }

    function start() {
        root.dataset.started = "1";
        for (const type of ["mousedown", "mouseover", "mouseout"]) root.addEventListener(type, onMapPointer);
        root.addEventListener("keydown", onKey, true);
        root.addEventListener("keydown", (event) => {
            if (event.key === "Escape") event.stopPropagation(); // the WebUI would look for an Interrupt button here
        });
        root.addEventListener("input", onInput);
        root.addEventListener("click", onClick);
        for (const type of ["pointerover", "focusin", "keydown"]) root.addEventListener(type, onPresence);
        new IntersectionObserver(onVisibility).observe(root); // the host shows and hides the tab
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
        boot(Date.now());
        onChange();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    function findRoot() {
        if (root && root.isConnected) return;
        const tab = byId(ROOT);
        if (tab && !tab.dataset.started && inputOf("elemental_spec") && byId("elemental_boot")) {
            root = tab;
            start();
        }
    }

    function onPage(react) {
        return (event) => {
            if (root && root.isConnected) react(event);
        };
    }

    document.addEventListener("mouseup", onPage(endDrag));
    document.addEventListener("visibilitychange", onPage(onVisibility));
    addEventListener("pagehide", onPage(keepTexts));
    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
