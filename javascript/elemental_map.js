/* What moves on the element map: the name and ratio of the cell under the pointer, rows that fold, the choice of cells by
   mouse and keyboard, and what is done with them. The map itself comes from the server, drawn anew with each look at the
   form. What was chosen goes to elemental.js as events of the tab: "elemental-stroke" asks the server for rules,
   "elemental-check" fills in the panel Element check. Neither script knows what a rule looks like. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const STORE = "elemental_map"; // of this page alone, until it is closed
    const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

    let root = null;
    let tooltip = null;
    let menu = null;
    let pointer = [0, 0];
    let drag = null; // {table, from: [row, column], to: [row, column]}
    let keyboard = null; // {from, to}: the cells that the keys have chosen, as a drag has
    let selected = null; // {ratio, rows, from, to}: what is chosen until something is done with it
    let kept = {open: [], paint_by: "", tool: "paint"};

    const byId = (id) => document.getElementById(id);
    const tableOf = (element) => element.closest(".elemental-map");
    const tables = () => Array.from(root.querySelectorAll(".elemental-map"));
    const rowsOf = (table) => Array.from(table.tBodies[0].rows);
    const send = (name, detail) => root.dispatchEvent(new CustomEvent(`elemental-${name}`, {detail}));

    function readKept() {
        try {
            kept = {...kept, ...JSON.parse(sessionStorage.getItem(STORE) || "{}")};
        } catch {
            // what is kept there is no longer what it was
        }
    }

    function keep(change) {
        kept = {...kept, ...change};
        try {
            sessionStorage.setItem(STORE, JSON.stringify(kept));
        } catch {
            // there is no room
        }
    }

    /* ---- where a cell is ---- */

    const headers = (table) => Array.from(table.tHead.rows[1].cells).slice(1);
    const place = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];
    const isElement = (cell) => Boolean(cell) && cell.classList.contains("e");
    const isShown = (row) => !row.dataset.in || kept.open.includes(row.dataset.in);

    function cellAt(table, [row, column]) {
        const line = table.tBodies[0].rows[row];
        return line ? line.cells[column + 1] : undefined;
    }

    const ordered = (one, other) => (one < other ? [one, other] : [other, one]);

    /* The cells of a rectangle that can be seen. Where a family is there as a whole, its groups add nothing. */
    function cellsBetween(table, from, to) {
        const [top, bottom] = ordered(from[0], to[0]);
        const [left, right] = ordered(from[1], to[1]);
        const rows = rowsOf(table).slice(top, bottom + 1).filter(isShown);
        const whole = new Set(rows.map((row) => row.dataset.family).filter(Boolean));
        return rows
            .filter((row) => !whole.has(row.dataset.in))
            .flatMap((row) => Array.from(row.cells).slice(left + 1, right + 2))
            .filter(isElement);
    }

    /* What a rule calls each cell: its block, and the part of the element's name. A column of which everything is chosen
       is the block. */
    function namesOf(table, cells) {
        const heads = headers(table);
        const columns = new Map();
        for (const cell of cells) columns.set(cell.cellIndex, [...(columns.get(cell.cellIndex) || []), cell]);
        return Array.from(columns).flatMap(([index, column]) => {
            const block = heads[index - 1].dataset.block;
            const all = rowsOf(table).filter((row) => !row.dataset.in && isElement(row.cells[index]));
            const roots = column.filter((cell) => !cell.parentElement.dataset.in);
            if (all.length > 1 && roots.length === all.length) return [[block, ""]];
            return column.map((cell) => nameOf(cell, block));
        });
    }

    function nameOf(cell, block) {
        const {word, part} = cell.dataset;
        return [word ?? block, part ?? cell.parentElement.cells[0].dataset.part];
    }

    const nameIn = (table, cell) => nameOf(cell, headers(table)[cell.cellIndex - 1].dataset.block);

    /* ---- what a cell says ---- */

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
        const {effect, rank, share, most, within} = cell.dataset;
        if (effect === undefined) return [];
        const kind = "measured" in table.dataset ? "measured" : "estimate";
        const place = rank ? `rank ${rank} of ${table.dataset.ranked}` : within ? `by all of ${within}` : "";
        const figures = [`${kind} ${effect} of 255`, place, share && `${share} of the change`].filter(Boolean).join(", ");
        return [most ? `${figures} (most: ${most})` : figures];
    }

    function showTooltip(table, cell, x, y) {
        if (!isElement(cell) || menu) return hideTooltip();
        if (!tooltip) {
            tooltip = document.createElement("div");
            tooltip.id = "elemental_tooltip";
            tooltip.setAttribute("role", "tooltip");
            document.body.append(tooltip);
        }
        tooltip.textContent = describe(table, cell).join("\n");
        tooltip.hidden = false;
        placeAt(tooltip, x, y);
    }

    function placeAt(element, x, y) {
        const box = element.getBoundingClientRect();
        element.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
        element.style.top = `${y + 18 + box.height < innerHeight ? y + 18 : Math.max(4, y - box.height - 10)}px`;
    }

    /* The map is drawn anew under a pointer that does not move. */
    function renewTooltip() {
        if (!tooltip || tooltip.hidden) return;
        const under = document.elementFromPoint(...pointer);
        const cell = under && under.closest(".elemental-map td");
        if (cell) showTooltip(tableOf(cell), cell, ...pointer);
        else hideTooltip();
    }

    function hideTooltip() {
        if (tooltip) tooltip.hidden = true;
    }

    /* ---- rows that fold ---- */

    function showFolds() {
        root.dataset.open = kept.open.join("|");
        for (const table of tables()) {
            for (const row of rowsOf(table)) {
                if (row.dataset.in && row.hidden === isShown(row)) row.hidden = !isShown(row);
                const button = row.dataset.family && row.querySelector("[data-fold]");
                const open = String(kept.open.includes(row.dataset.family));
                if (button && button.getAttribute("aria-expanded") !== open) button.setAttribute("aria-expanded", open);
            }
        }
    }

    function fold(name) {
        const open = kept.open.includes(name) ? kept.open.filter((other) => other !== name) : [...kept.open, name];
        keep({open});
        select(null);
        showFolds();
    }

    /* ---- choosing ---- */

    function mark(table, from, to) {
        clearMarks();
        if (table) for (const cell of cellsBetween(table, from, to)) cell.classList.add("chosen");
    }

    function clearMarks() {
        for (const cell of root.querySelectorAll(".elemental-map .chosen")) cell.classList.remove("chosen");
    }

    function select(table, from, to) {
        selected = table && {ratio: table.dataset.ratio, rows: rowsOf(table).length, from, to};
        showSelected();
    }

    const selectedTable = () => selected && tables().find((table) => table.dataset.ratio === selected.ratio);

    /* Also on the map that was drawn anew, if it is one of the same rows. */
    function showSelected() {
        const table = selectedTable();
        if (selected && (!table || rowsOf(table).length !== selected.rows)) selected = null;
        const bar = root.querySelector(".elemental-selected");
        if (bar) bar.hidden = !selected;
        if (!selected) {
            if (!drag && !keyboard) clearMarks();
            return;
        }
        mark(table, selected.from, selected.to);
        const cells = cellsBetween(table, selected.from, selected.to);
        const tensors = cells.reduce((sum, cell) => sum + Number(cell.dataset.count || 2), 0);
        const said = `${cells.length} cell${cells.length === 1 ? "" : "s"}, ${tensors} tensors`;
        const output = bar && bar.querySelector("output");
        if (output && output.textContent !== said) output.textContent = said; // each change of the page leads here
    }

    function tool() {
        const chosen = root.querySelector("[name=elemental_tool]:checked");
        return chosen ? chosen.value : "paint";
    }

    const valueOf = (id) => (byId(id) ? byId(id).value : "");

    function act(action, table, from, to) {
        const isBeta = table.dataset.ratio === "beta";
        const cells = cellsBetween(table, from, to).filter((cell) => !isBeta || alphaOf(cell) !== undefined);
        const [left, right] = ordered(from[1], to[1]);
        const names = isBeta ? cells.map((cell) => nameIn(table, cell)) : namesOf(table, cells);
        if (!cells.length) return;
        if (action === "check") {
            send("check", names.map((pair) => pair.filter(Boolean).join(":")));
            return;
        }
        const columns = headers(table).slice(left, right + 1).map((head) => head.dataset.block);
        const [ratio, end] = [valueOf("elemental_brush"), valueOf("elemental_brush_end")];
        const leftward = from[1] > to[1]; // so do the ratios of a drag
        const {target = ""} = table.dataset; // the further model whose ratio it is
        send("stroke", {columns, cells: names, action, ratio, end, leftward, target, ...betaOf(table, cells)});
    }

    /* A rule that sets beta sets alpha, too: to what the map of alpha has there. Cells that are not merged have none. */
    function betaOf(table, cells) {
        return table.dataset.ratio === "beta" ? {alphas: cells.map(alphaOf)} : {};
    }

    function alphaOf(cell) {
        const alphas = tables().find((table) => table.dataset.ratio === "alpha");
        const same = alphas && cellAt(alphas, place(cell));
        return same && same.dataset.r;
    }

    function actOnSelected(action) {
        const {from, to} = selected;
        const table = selectedTable();
        select(null);
        if (table && action !== "none") act(action, table, from, to);
    }

    /* ---- mouse ---- */

    function onPointer(event) {
        const cell = event.target.closest && event.target.closest(".elemental-map td");
        const table = cell && tableOf(cell);
        if (event.type === "mousedown") {
            if (isElement(cell) && event.button === 0) beginDrag(event, table, cell);
        } else if (event.type === "mouseover") {
            if (!cell) return hideTooltip();
            pointer = [event.clientX, event.clientY];
            if (drag && table === inItsPlace(drag.table) && cell.cellIndex > 0) {
                drag.to = place(cell);
                showDrag();
            }
            showTooltip(table, cell, event.clientX, event.clientY);
        } else if (cell) {
            hideTooltip();
        }
    }

    function beginDrag(event, table, cell) {
        select(null);
        drag = {table, from: place(cell), to: place(cell)};
        keyboard = {from: drag.from, to: drag.to};
        mark(table, drag.from, drag.to);
        event.preventDefault(); // no text is selected
        table.focus({preventScroll: true});
    }

    /* The map can be drawn anew during a drag, which goes on unless its rows or columns are others now. */
    function inItsPlace(table) {
        const shape = (other) => [other.dataset.ratio, rowsOf(other).length, headers(other).length].join();
        return table.isConnected ? table : tables().find((other) => shape(other) === shape(table));
    }

    function showDrag() {
        if (!drag) return;
        drag.table = inItsPlace(drag.table);
        if (drag.table) mark(drag.table, drag.from, drag.to);
        else cancelDrag();
    }

    function endDrag() {
        showDrag();
        if (!drag) return;
        const {table, from, to} = drag;
        drag = null;
        clearMarks();
        if (tool() === "select") select(table, from, to);
        else act(tool(), table, from, to);
    }

    function cancelDrag() {
        drag = null;
        keyboard = null;
        select(null);
        clearMarks();
    }

    /* A block's name stands for its column, the name of a row for the row. */
    function onHeader(header) {
        const table = tableOf(header);
        const last = headers(table).length - 1;
        const row = header.closest("tbody tr");
        if (row) return select(table, [row.sectionRowIndex, 0], [row.sectionRowIndex, last]);
        if (!header.dataset.block) return undefined;
        const column = header.cellIndex - 1;
        return select(table, [0, column], [rowsOf(table).length - 1, column]);
    }

    function onClick(event) {
        const button = event.target.closest("button");
        const header = event.target.closest(".elemental-map th");
        if (button && button.dataset.fold) fold(button.dataset.fold);
        else if (button && button.dataset.cells && selected) actOnSelected(button.dataset.cells);
        else if (button && button.dataset.chosen && effectTable()) useFirst(button.dataset.chosen, effectTable());
        else if (header) onHeader(header);
    }

    /* ---- the menu of a cell ---- */

    function onMenu(event) {
        const cell = event.target.closest && event.target.closest(".elemental-map td.e");
        if (!cell) return;
        event.preventDefault();
        const inside = cell.classList.contains("chosen") && selected;
        if (!inside) select(tableOf(cell), place(cell), place(cell));
        openMenu(event.clientX, event.clientY);
    }

    function openMenu(x, y) {
        closeMenu();
        hideTooltip();
        menu = document.createElement("div");
        menu.id = "elemental_menu";
        menu.setAttribute("role", "menu");
        for (const button of root.querySelectorAll(".elemental-selected [data-cells]")) {
            const item = document.createElement("button");
            const ratio = button.dataset.cells === "paint" ? ` ${valueOf("elemental_brush") || 1}` : "";
            Object.assign(item, {type: "button", textContent: button.textContent + ratio});
            item.setAttribute("role", "menuitem");
            item.addEventListener("click", () => {
                closeMenu();
                if (selected) actOnSelected(button.dataset.cells);
            });
            menu.append(item);
        }
        menu.addEventListener("keydown", onMenuKey);
        document.body.append(menu);
        placeAt(menu, x - 14, y - 18);
        menu.firstElementChild.focus();
    }

    function onMenuKey(event) {
        const items = Array.from(menu.children);
        const at = items.indexOf(document.activeElement);
        const step = {ArrowDown: 1, ArrowUp: -1}[event.key];
        if (step) items[(at + step + items.length) % items.length].focus();
        if (event.key === "Escape" || event.key === "Tab") {
            const table = selectedTable();
            closeMenu();
            select(null);
            if (table) table.focus({preventScroll: true});
        }
        if (step || event.key === "Escape") {
            event.preventDefault();
            event.stopPropagation();
        }
    }

    function closeMenu() {
        if (menu) menu.remove();
        menu = null;
    }

    /* ---- keys ---- */

    function onKey(event) {
        const table = event.target.closest && event.target.classList.contains("elemental-map") && event.target;
        if (event.key === "Escape" && (drag || selected)) return cancelDrag();
        if (!table) return undefined;
        const step = STEPS[event.key];
        if (step) moveBy(event, table, step);
        else if (keyboard && ["Enter", " ", "Delete", "Backspace"].includes(event.key)) actByKey(event, table);
        else if (keyboard && (event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey))) {
            const box = cellAt(table, keyboard.to).getBoundingClientRect();
            select(table, keyboard.from, keyboard.to);
            openMenu(box.left, box.bottom);
            event.preventDefault();
        } else if (event.key === "Escape") {
            cancelDrag();
            hideTooltip();
        }
        return undefined;
    }

    function actByKey(event, table) {
        event.preventDefault();
        const erases = event.key === "Delete" || event.key === "Backspace";
        if (tool() === "select" && !erases) select(table, keyboard.from, keyboard.to);
        else act(erases ? "erase" : tool(), table, keyboard.from, keyboard.to);
    }

    function moveBy(event, table, step) {
        const to = keyboard ? nextCell(table, keyboard.to, step) : firstCell(table);
        keyboard = {from: keyboard && event.shiftKey ? keyboard.from : to, to};
        mark(table, keyboard.from, keyboard.to);
        const cell = cellAt(table, keyboard.to);
        cell.scrollIntoView({block: "nearest", inline: "nearest"});
        const box = cell.getBoundingClientRect();
        showTooltip(table, cell, box.left, box.bottom);
        table.setAttribute("aria-label", describe(table, cell).join(", "));
        event.preventDefault();
    }

    let held = ""; // the ratio of the map that the keyboard is at

    function onFocus(event) {
        const table = event.target.classList.contains("elemental-map") && event.target;
        held = table ? table.dataset.ratio : "";
    }

    /* A map that is drawn anew takes the place of one that had the focus. */
    function holdFocus() {
        if (!held || document.activeElement !== document.body) return;
        const table = tables().find((other) => other.dataset.ratio === held);
        if (!table) return;
        table.focus({preventScroll: true});
        if (keyboard && !selected && cellAt(table, keyboard.to)) mark(table, keyboard.from, keyboard.to);
    }

    const shownCells = (table) => Array.from(table.querySelectorAll("tr:not([hidden]) > td.e"));

    /* The next cell of the row, or of the column; of the next row, if the column has none there. The same at the edge. */
    function nextCell(table, [row, column], [down, right]) {
        const cells = shownCells(table).map(place);
        const ahead = ([r, c]) => (down ? (r - row) * down : (c - column) * right);
        const aside = ([r, c]) => Math.abs(down ? c - column : r - row);
        const next = cells.filter((at) => ahead(at) > 0).sort((a, b) => ahead(a) - ahead(b) || aside(a) - aside(b));
        return next.find((at) => !aside(at)) || (down && next[0]) || [row, column];
    }

    function firstCell(table) {
        const cells = shownCells(table);
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
        if (table) showKinds(table, tools);
        if (table && table.dataset.effects !== effectsSeen) {
            effectsSeen = table.dataset.effects;
            paintBy(kept.paint_by === `${effectsSeen} ratio` ? "ratio" : "effect"); // new ones are what was asked for
        }
        if (table) showFirst();
    }

    const kindOf = (table) => ("measured" in table.dataset ? "check" : "effect");

    /* The last estimate and the last check are kept, and one of them is on the map. */
    function showKinds(table, tools) {
        const report = root.querySelector(".elemental-report[data-painted]");
        if (!report) return; // while there is a mistake in the form, they are what they were
        const kinds = ["ratio", kindOf(table), ...report.dataset.painted.split(" ")];
        for (const radio of tools.querySelectorAll("[type=radio]")) {
            radio.closest("label").hidden = !kinds.includes(radio.value);
        }
    }

    function choosePaint(what) {
        const table = effectTable();
        if (what === "ratio" || !table || what === kindOf(table)) paintBy(what === "ratio" ? what : "effect");
        else send("effects", what); // the map that comes is painted by them
    }

    function paintBy(what) {
        const table = effectTable();
        root.dataset.paint = what;
        effectTools().querySelector(`[value="${what === "effect" && table ? kindOf(table) : what}"]`).checked = true;
        keep({paint_by: `${effectsSeen} ${what}`});
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
        const tensors = markFirst(table, count);
        const tools = effectTools();
        const slider = tools.querySelector("[type=range]");
        const step = 1 + ((Number(slider.max) - 1) * Math.log(count)) / (Math.log(ranked(table)) || 1);
        if (document.activeElement !== slider) slider.value = String(count ? step : 0);
        for (const button of tools.querySelectorAll("button")) button.disabled = !count;
        const share = table.dataset.together.split("|")[count - 1];
        const together = share ? `, ${share} of the change` : "";
        const said = count ? `of ${ranked(table)}: ${tensors} tensors${together}` : `of ${ranked(table)}`;
        const output = tools.querySelector("output");
        if (output.textContent !== said) output.textContent = said; // each change of the page leads here
    }

    /* A family that is folded shows that some of its cells are among the first. */
    function markFirst(table, count) {
        let tensors = 0;
        const within = new Set();
        for (const cell of table.querySelectorAll("td[data-rank]")) {
            const first = Number(cell.dataset.rank) <= count;
            cell.classList.toggle("first", first);
            if (!first) continue;
            tensors += Number(cell.dataset.count || 2);
            within.add(`${cell.parentElement.dataset.in} ${cell.cellIndex}`);
        }
        for (const cell of table.querySelectorAll("tr.family > td.e")) {
            cell.classList.toggle("within", within.has(`${cell.parentElement.dataset.family} ${cell.cellIndex}`));
        }
        return tensors;
    }

    function onInput(event) {
        if (!event.target.closest(".elemental-effect-tools")) return;
        if (event.target.type === "radio") choosePaint(event.target.value);
        if (!effectTable()) return;
        if (event.target.type === "range") moveFirst(event.target);
        showFirst();
    }

    /* Cells of the same rows that are not chosen go along, under all names of theirs: no range may reach over them. */
    function useFirst(what, table) {
        const nameEach = (cells) => cells.map((cell) => nameIn(table, cell));
        const cells = firstCells(table);
        if (what === "check") {
            send("check", nameEach(cells).map((pair) => pair.filter(Boolean).join(":")));
            return;
        }
        const rows = new Set(cells.map((cell) => cell.parentElement));
        const others = Array.from(rows).flatMap((row) => {
            const names = nameEach(Array.from(row.querySelectorAll("td.e:not(.first)")));
            return [...names, ...names.map(([block]) => [block, row.cells[0].dataset.part])];
        });
        const columns = headers(table).map((head) => head.dataset.block);
        send("stroke", {columns, cells: nameEach(cells), others, ratio: valueOf("elemental_brush")});
    }

    /* ---- start ---- */

    /* What the ends of the colours are depends on the mode, and maybe on other ratios. */
    function showEnds() {
        const [table] = tables();
        for (const item of root.querySelectorAll(".elemental-key [data-end]")) {
            const name = table && table.dataset[item.dataset.end];
            const said = item.dataset.ratio + (name ? ` (${name})` : "");
            if (item.textContent !== said) item.textContent = said; // each change of the page leads here
        }
    }

    function onChange() {
        showEnds();
        showFolds();
        showDrag();
        showSelected();
        showEffects();
        holdFocus();
        renewTooltip();
    }

    function start() {
        readKept();
        for (const type of ["mousedown", "mouseover", "mouseout"]) root.addEventListener(type, onPointer);
        root.addEventListener("click", onClick);
        root.addEventListener("elemental-loaded", () => effectTable() && paintBy("ratio")); // to see what was loaded
        root.addEventListener("contextmenu", onMenu);
        root.addEventListener("keydown", onKey);
        root.addEventListener("input", onInput);
        let waiting = false;
        new MutationObserver(() => {
            if (waiting) return;
            waiting = true;
            requestAnimationFrame(() => {
                waiting = false;
                onChange();
            });
        }).observe(root, {childList: true, subtree: true});
        onChange();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    function findRoot() {
        if (root && root.isConnected) return;
        root = byId(ROOT);
        if (root) start();
    }

    document.addEventListener("focusin", onFocus);
    document.addEventListener("mouseup", () => root && root.isConnected && endDrag());
    document.addEventListener("mousedown", (event) => {
        if (menu && !menu.contains(event.target)) closeMenu();
        if (!event.target.closest(".elemental-map")) held = "";
    }, true);
    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
