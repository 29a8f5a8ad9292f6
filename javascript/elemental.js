/* What moves in the tab beside the element map: the sliders of the block weights, the completion of names in the spec, and
   the page's part of following a job. Everything about keys, ratios and rules comes from the server, names and words in
   attributes, rules for chosen cells as the editor's new text. Of a rule this script knows only which marks end it, and
   that names of elements come after its first colon. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const POLL_MS = 400; // while a job runs
    const IDLE_MS = 10000; // while none does, since another page may begin one
    const AWAY_MS = 3000; // while a job runs, but another tab of the host is shown
    const PRESENT_MS = 2000; // the same, when somebody moves about in the tab
    const ANSWER_MS = 3000; // without an answer the server is asked again
    const MOST_TRIES = 3;
    const SETTLE_MS = 150;
    const RUN_BUTTONS = ["both", "plot", "check", "search", "another"].map((name) => `elemental_run_${name}`);
    const SAID_MS = 1500;

    let root = null;
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
        if (ready() && number < newest) press("elemental_sync");
        newest = Math.max(newest, number);
    }

    function reconcile(tries = 8) {
        clearTimeout(settling);
        if (!root.dataset.filled) return; // the server would take the fields as blank
        settling = setTimeout(() => {
            const report = root.querySelector(".elemental-report");
            const spec = inputOf("elemental_spec");
            if (!spec || (report && report.dataset.stamp === stamp(spec.value))) return;
            press("elemental_sync");
            if (tries > 1) reconcile(tries - 1);
        }, SETTLE_MS);
    }

    /* ---- rules for cells that were chosen on the element map ---- */

    /* Chosen cells whose rules are not in the editor yet. Only the first is asked about: up to gradio 3 a second request
       would be dropped. */
    const strokes = []; // {cells, asks, tries, text}: JSON, numbers of requests, how many, the editor's text then
    let asking = 0;

    function onStroke(event) {
        strokes.push({cells: JSON.stringify(event.detail), asks: [], tries: 0, text: ""});
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

    function onCheck(event) {
        openPanel("Element check");
        writeWhenThere("elemental_elements", event.detail.join("\n"), Date.now());
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
        const heads = Array.from(root.querySelectorAll(".elemental-map:first-of-type th[data-block]"));
        return heads.length ? heads.map((head) => head.dataset.block) : box.dataset.blocks.split(" ");
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

    function plainRatio(box) {
        const id = box.dataset.ratio;
        const input = document.querySelector(`#${id} input[type=number], #${id} input`);
        return input ? Number(input.value) : 0.5;
    }

    /* Also after each report: a text that the server has set brings no event with it, but a new report. */
    function moveSliders(box) {
        const said = [box.dataset.built, (inputOf(box.dataset.field) || {value: ""}).value, plainRatio(box)].join("|");
        if (box.dataset.said === said) return;
        box.dataset.said = said;
        const {pieces, offset, fits} = weights(box);
        box.classList.toggle("unused", pieces.length === 0 || !fits);
        Array.from(box.querySelectorAll("input")).forEach((slider, index) => {
            const piece = pieces[index - offset];
            slider.disabled = !fits || (pieces.length > 0 && index < offset);
            if (slider.dataset.held || !fits) return;
            const value = piece === undefined ? plainRatio(box) : Number(piece);
            slider.value = String(value);
            slider.nextElementSibling.textContent = String(Number(value.toFixed(3)));
        });
    }

    /* Only the number of the slider that moved is written: the others may be finer than a slider, or beyond its ends. */
    function onSlider(slider) {
        const box = slider.closest(".elemental-sliders");
        const sliders = Array.from(box.querySelectorAll("input"));
        const {pieces, offset} = weights(box);
        const numbers = pieces.length ? pieces : sliders.map(() => String(plainRatio(box)));
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
        const word = piece.split(field ? /[\s:]/ : /[\s:-]/).pop(); // a range has two names
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

    /* gradio 3 opens what is folded by a click alone: its headings become buttons, also for the keyboard. */
    function nameHeadings() {
        for (const heading of root.querySelectorAll("div.label-wrap")) {
            heading.tabIndex = 0;
            heading.setAttribute("role", "button");
            heading.setAttribute("aria-expanded", heading.classList.contains("open"));
        }
    }

    /* gradio 3 gives the number beside a slider no name. */
    function nameNumbers() {
        for (const input of root.querySelectorAll("input[data-testid=number-input]:not([aria-label])")) {
            const label = input.closest("[id^=elemental_]").querySelector("[data-testid=block-info]");
            if (label) input.setAttribute("aria-label", label.textContent.trim());
        }
    }

    function onKey(event) {
        const area = event.target;
        const inSpec = area.closest && area.closest("#elemental_spec");
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            const button = RUN_BUTTONS.find((id) => visible(byId(id)));
            if (button) press(button);
            event.preventDefault();
            event.stopPropagation(); // the WebUI would look for a Generate button of its own here
        } else if (event.key === "Tab" && inSpec && !event.shiftKey && !event.ctrlKey && !event.altKey) {
            complete(event, area);
        } else if ((event.key === "Enter" || event.key === " ") && area.matches && area.matches("div.label-wrap")) {
            area.click();
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
        showWholeNames();
        nameHeadings();
        nameNumbers();
        suggestName();
        compareLive();
        takeRules();
        follow();
        openAsked();
        fillPasted();
        putCopied();
        showAwaited();
    }

    /* Whether the merge that is in the model is what the form says now; without a report it cannot be told. */
    function compareLive() {
        const live = root.querySelector(".elemental-live");
        const report = root.querySelector(".elemental-report");
        const known = live && report && live.dataset.merge && !report.classList.contains("error");
        const differs = Boolean(known) && live.dataset.merge !== report.dataset.merge;
        if (live && live.classList.contains("differs") !== differs) live.classList.toggle("differs", differs);
    }

    /* Names of models are often longer than their fields. */
    function showWholeNames() {
        for (const input of root.querySelectorAll("#elemental_models input")) {
            if (input.title !== input.value) input.title = input.value;
        }
    }

    /* Saved under this name if nothing is typed; what somebody has typed stays. */
    function suggestName() {
        const mark = root.querySelector("[data-save-name]");
        const input = inputOf("elemental_name");
        if (mark && input && input.placeholder !== mark.dataset.saveName) input.placeholder = mark.dataset.saveName;
    }

    /* The page asks, so that a page that is left takes nothing with it. While nobody can see the tab, it only asks how far a
       job is, seldom, for the page's title. */
    let asked = 0; // when the server was asked last
    let due = 0; // when it will be asked next; 0 for never
    let following = 0;
    const ready = () => Boolean(root.dataset.ready); // an earlier answer would take the place of what fills the fields

    function jobRuns() {
        const live = root.querySelector(".elemental-live");
        const message = root.querySelector("#elemental_progress .elemental-message");
        const job = live ? live.dataset.job : "";
        const unseen = job && (!message || message.dataset.job !== job);
        const waiting = root.querySelector(".elemental-queue:not([data-waiting='0'])");
        return Boolean(unseen || waiting || (message && message.classList.contains("running")));
    }

    const watched = () => ready() && !document.hidden && (visible(root) || jobRuns());
    const pace = () => (!jobRuns() ? IDLE_MS : visible(root) ? POLL_MS : AWAY_MS);

    function follow() {
        const seen = watched();
        const next = asked + pace();
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
        onPresence();
        follow();
    }

    /* When a job has ended, the list of unfinished runs can be another one, and the map can show other effects. */
    function onEnd() {
        press("elemental_list_runs");
        press("elemental_sync");
    }

    /* What was loaded from the history or from a file belongs to a panel, which is opened once. */
    let opened = 0;

    function openAsked() {
        const asked = root.querySelector("#elemental_opens [data-open]");
        if (!asked || Number(asked.dataset.number) <= opened) return;
        opened = Number(asked.dataset.number);
        openPanel(asked.dataset.open);
        root.dispatchEvent(new CustomEvent("elemental-loaded"));
    }

    /* A recipe that was pasted into the host's own page goes into the form, once. */
    let pasted = "";

    function fillPasted() {
        const mark = root.querySelector("#elemental_pasted [data-number]");
        if (!mark || mark.dataset.number === pasted) return;
        pasted = mark.dataset.number;
        press("elemental_fill_pasted");
    }

    /* ---- copying ---- */

    let copying = {number: "", button: null};

    function putCopied() {
        const answer = root.querySelector("#elemental_copied [data-number]");
        if (!answer || answer.dataset.number !== copying.number) return;
        const {button} = copying;
        copying = {number: "", button: null};
        const words = button.textContent;
        const say = (said) => {
            button.textContent = said;
            setTimeout(() => (button.textContent = words), SAID_MS);
        };
        toClipboard(answer.textContent).then(() => say("Copied"), () => say("Not allowed here"));
    }

    /* Over plain HTTP, as in a local network, browsers have no other way. */
    async function toClipboard(text) {
        if (navigator.clipboard) return navigator.clipboard.writeText(text);
        const area = document.createElement("textarea");
        area.value = text;
        document.body.append(area);
        area.select();
        const done = document.execCommand("copy");
        area.remove();
        if (!done) throw new Error("refused");
    }

    /* ---- answers that were asked for come into view: the button can be at the lower edge of the window ---- */

    let awaited = null; // {place, said}: where the answer will be, and what stands there until then
    const answerIn = (place) => place.querySelector(".elemental-message"); // beside what gradio has there

    function awaitAnswer(button) {
        const place = byId(`${button.id.replace("estimate_", "")}_answer`);
        const answer = place && answerIn(place);
        awaited = place && {place, said: answer ? answer.textContent : ""};
        if (answer) answer.scrollIntoView({block: "nearest"}); // it may be the same again
    }

    function showAwaited() {
        const answer = awaited && answerIn(awaited.place);
        if (!answer || answer.textContent === awaited.said) return;
        answer.scrollIntoView({block: "nearest"});
        awaited = null;
    }

    function onInput(event) {
        const owner = event.target.closest("[id^=elemental_]");
        if (!owner) return;
        if (event.target.type === "range" && event.target.dataset.block) onSlider(event.target);
        if (owner.id === "elemental_spec") reconcile();
        for (const box of root.querySelectorAll(".elemental-sliders")) moveSliders(box);
    }

    function onClick(event) {
        const copy = event.target.closest("[data-copy]");
        const gif = event.target.closest("[data-gif]");
        const estimate = event.target.closest("#elemental_estimate_plot, #elemental_estimate_check");
        if (estimate) awaitAnswer(estimate);
        if (copy) copying = {number: send("copy", copy.dataset.copy), button: copy};
        actOnEntry(event.target);
        const used = event.target.closest("[data-use]");
        const sort = event.target.closest("[data-sort]");
        if (used) send("use", `${used.dataset.use}\n`);
        else if (gif) showGif(gif);
        if (sort) sortBy(sort);
        if (event.target.closest("[data-take]")) {
            openPanel("Merge");
            press("elemental_take");
        }
        if (event.target.closest("[data-search-use]")) openPanel("Merge"); // which the best of a search is put into
    }

    /* The largest figures first, names in order; once more, the other way round. */
    function sortBy(button) {
        const [table, at] = [button.closest("table"), Number(button.dataset.sort)];
        const value = (row) => row.cells[at].textContent;
        const number = (row) => Number.parseFloat(value(row)) || 0;
        const isText = Number.isNaN(Number.parseFloat(value(table.tBodies[0].rows[0])));
        const order = (one, other) => (isText ? value(one).localeCompare(value(other)) : number(other) - number(one));
        const rows = Array.from(table.tBodies[0].rows).sort(order);
        const again = table.dataset.sorted === String(at);
        table.dataset.sorted = again ? "" : String(at);
        table.tBodies[0].append(...(again ? rows.reverse() : rows));
    }

    const ENTRY_ACTS = {entry: "", entryAll: "all ", star: "star ", delete: "delete "};

    function actOnEntry(target) {
        const button = target.closest("#elemental_history button");
        for (const [name, act] of Object.entries(button ? ENTRY_ACTS : {})) {
            if (button.dataset[name]) send("entry", `${act}${button.dataset[name]}`);
        }
    }

    function showGif(row) {
        send("gif", row.dataset.gif);
        const view = byId("elemental_gif_view");
        setTimeout(() => view && view.scrollIntoView({block: "nearest", behavior: "smooth"}), 600);
    }

    function start() {
        root.dataset.started = "1";
        root.addEventListener("elemental-stroke", onStroke);
        root.addEventListener("elemental-check", onCheck);
        root.addEventListener("elemental-effects", (event) => send("painted_by", event.detail));
        root.addEventListener("elemental-ended", onEnd);
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
        root.addEventListener("elemental-ready", follow);
        root.addEventListener("elemental-filled", () => reconcile());
        follow();
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

    /* Lists of gradio 4 tell the server nothing when somebody picks what they show already, but that they were left. So
       the page says whether the last thing done was a choice in a list, and what listens looks there. */
    const inList = (event) => event.target instanceof Element && event.target.closest("ul.options, [role=listbox]");

    function notePick(picked) {
        document.documentElement.toggleAttribute("data-elemental-picked", Boolean(picked));
    }

    addEventListener("mousedown", (event) => notePick(inList(event) && event.target.closest("li")), true);
    addEventListener("keydown", (event) => notePick(event.key === "Enter" && inList(event)), true);
    document.addEventListener("visibilitychange", onPage(onVisibility));
    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
