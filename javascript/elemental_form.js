/* The form of this page as a whole: kept while the page is open, given back to it when it is loaded anew, undone and
   redone. What the fields say is one text that the server gives and takes; this script only keeps it. It reads the fields
   only when the page is left, since nobody can be asked then. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const PAUSE_MS = 500; // after the last change
    const ANSWER_MS = 3000; // without an answer the server is asked again
    const MOST_TRIES = 3;
    const BOOT_MS = 250; // gradio does not listen yet when its buttons are on the page, and leaves out a second request
    const FILL_MS = 10000; // the fields are filled long before, if they can be
    const SETTLE_MS = 200; // the answer that says that they are filled comes with what fills them
    const NATIVE_MS = 60; // the browser has undone something by then, if there is something
    const STORE = "elemental_page"; // of this page alone, until it is closed
    const STEPS = "elemental_steps";
    const MOST_STEPS = 60;
    const MOST_NAMED = 3; // fields in what Undo says
    const SHORT = 24; // letters of a value there
    const MOST_LETTERS = 1500000;
    const OWN = ["elemental_brush", "elemental_first"]; // fields that the server knows nothing of
    const NOT_KEPT = ["elemental_bridges", "elemental_results", "elemental_history_filter"];

    let root = null;
    let count = 0; // of what was sent, so that the same text is a change again

    const byId = (id) => document.getElementById(id);
    const inputOf = (id) => document.querySelector(`#${id} textarea, #${id} input`);
    const visible = (element) => element && element.offsetParent !== null;

    function press(id) {
        const owner = byId(id);
        const button = owner && (owner.tagName === "BUTTON" ? owner : owner.querySelector("button"));
        if (button) button.click();
    }

    function send(request) {
        const input = inputOf("elemental_refill");
        count += 1;
        if (!input) return count;
        input.value = `${JSON.stringify(request)}\n${count}`;
        input.dispatchEvent(new Event("input", {bubbles: true}));
        return count;
    }

    /* ---- what is kept ---- */

    let kept = {page: "", texts: {}, own: {}};
    let steps = {states: [], at: -1};

    function read(key, otherwise) {
        try {
            return JSON.parse(sessionStorage.getItem(key)) || otherwise;
        } catch {
            return otherwise;
        }
    }

    function store(key, value) {
        try {
            sessionStorage.setItem(key, JSON.stringify(value));
        } catch {
            // there is no room for so much
        }
    }

    function ownFields() {
        return OWN.map(byId).filter((input) => input);
    }

    function keepOwn() {
        for (const input of ownFields()) kept.own[input.id] = input.value;
    }

    function restoreOwn() {
        for (const input of ownFields()) {
            if (kept.own[input.id] === undefined) continue;
            input.value = kept.own[input.id];
            input.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }

    /* What stands in the fields, which the server may not have been told. A list with the focus shows what is searched. */
    function textsNow() {
        const inputs = Array.from(root.querySelectorAll("textarea, input:not([type=range]):not([type=radio])"));
        const owned = inputs.map((input) => [input.closest("[id^=elemental_]"), input]);
        const isKept = (owner) => owner && owner.id !== ROOT && !NOT_KEPT.some((id) => owner.closest(`#${id}`));
        const isSearched = (input) => input === document.activeElement && input.closest("[role=listbox], .secondary-wrap");
        const fields = owned.filter(([owner, input]) => isKept(owner) && !isSearched(input) && input.type !== "file");
        return Object.fromEntries(
            fields.map(([owner, input]) => [owner.id, input.type === "checkbox" ? input.checked : input.value])
        );
    }

    function leave() {
        if (!root.dataset.filled) return;
        keepOwn();
        store(STORE, {...kept, texts: textsNow()});
    }

    /* ---- asking for what the fields say ---- */

    let waiting = 0;
    let asked = 0;
    let tries = 0;
    let seen = 0; // the number of the last answer
    let touched = new Set(); // ids of fields that were typed in since the last answer; "*" for anything else
    let session = ""; // the field of the last step, if nothing else was touched for it

    function keepSoon() {
        clearTimeout(waiting);
        if (root.dataset.filled) waiting = setTimeout(keepNow, PAUSE_MS);
    }

    function keepNow() {
        clearTimeout(waiting);
        waiting = 0;
        clearTimeout(asked);
        if (restoring || document.hidden || !visible(root)) return;
        if (tries === MOST_TRIES) {
            tries = 0;
            return;
        }
        tries += 1;
        asked = setTimeout(keepNow, ANSWER_MS);
        press("elemental_keep");
    }

    function takeAnswer() {
        const answer = root.querySelector("#elemental_kept [data-number], #elemental_kept [data-refilled]");
        if (!answer) return;
        if (answer.dataset.refilled) takeRestored(answer.dataset.refilled);
        const number = Number(answer.dataset.number || 0);
        if (number <= seen) return;
        seen = number;
        clearTimeout(asked);
        tries = 0;
        if (!restoring) note(answer.textContent);
        // up to gradio 3 a change is dropped while an earlier one is looked at
        const report = root.querySelector(".elemental-report");
        if (report && report.dataset.form !== answer.dataset.form) press("elemental_sync");
        stepOn();
    }

    function note(page) {
        kept = {page, texts: {}, own: kept.own};
        keepOwn();
        store(STORE, kept);
        const field = touched.size === 1 && !touched.has("*") ? Array.from(touched)[0] : "";
        const {states, at} = steps;
        if (page !== states[at]) {
            if (field && page === states[at - 1]) steps = {states: states.slice(0, at), at: at - 1};
            else if (field && field === session && at > 0) steps = {states: [...states.slice(0, at), page], at};
            else steps = {states: [...states.slice(0, at + 1), page], at: at + 1};
            if (!field) typed.clear();
            session = field;
            while (steps.at > 0 && (steps.states.length > MOST_STEPS || steps.states.join("").length > MOST_LETTERS)) {
                steps = {states: steps.states.slice(1), at: steps.at - 1};
            }
            store(STEPS, steps);
        }
        touched = new Set();
        showSteps();
    }

    /* ---- undo and redo ---- */

    let restoring = 0; // the number of the request that fills the fields
    let pending = 0; // steps that were asked for meanwhile
    let givingUp = 0;
    const typed = new Set(); // fields that the browser itself has something to undo in

    function showSteps() {
        for (const button of root.querySelectorAll("[data-step]")) {
            const there = steps.states[steps.at + Number(button.dataset.step)];
            const [name, key] = button.dataset.step < 0 ? ["Undo", "Ctrl+Z"] : ["Redo", "Ctrl+Shift+Z"];
            const what = there === undefined ? "" : `: ${describeChange(steps.states[steps.at], there)}`;
            button.disabled = there === undefined;
            button.title = `${name}${what} (${key})`;
        }
    }

    /* Which fields a step changes; of a single one from what to what, if that is short. */
    function describeChange(from, to) {
        const [before, after] = [JSON.parse(from), JSON.parse(to)];
        const same = (name) => JSON.stringify(before[name]) === JSON.stringify(after[name]);
        const names = Object.keys({...before, ...after}).filter((name) => !same(name));
        const labels = names.slice(0, MOST_NAMED).map(labelOf);
        const values = [before, after].map((page) => shortly(page[names[0]]));
        if (names.length === 1 && values.every((value) => value.length <= SHORT)) return `${labels[0]} ${values.join(" → ")}`;
        return labels.join(", ") + (names.length > labels.length ? ` and ${names.length - labels.length} more` : "");
    }

    const shortly = (value) => (value === true ? "on" : value === false ? "off" : String(value ?? "") || "empty");

    function labelOf(name) {
        const field = byId(`elemental_${name}`);
        const label = field && field.querySelector("[data-testid=block-info], label span");
        return (label ? label.textContent.split(":")[0].trim() : "") || name.replaceAll("_", " ");
    }

    function step(by) {
        if (waiting) keepNow();
        if (restoring || tries) {
            pending += by; // what was done last is a step first
            return;
        }
        const page = steps.states[steps.at + by];
        if (page === undefined) return;
        steps.at += by;
        store(STEPS, steps);
        kept = {page, texts: {}, own: kept.own};
        store(STORE, kept);
        typed.clear();
        session = "";
        restoring = send({page});
        givingUp = setTimeout(() => takeRestored(String(restoring)), ANSWER_MS);
        showSteps();
    }

    function takeRestored(number) {
        if (Number(number) !== restoring) return;
        clearTimeout(givingUp);
        restoring = 0;
        touched = new Set();
        stepOn();
    }

    function stepOn() {
        const by = Math.sign(pending);
        if (!by || restoring || tries) return;
        pending -= by;
        step(by);
    }

    const isText = (element) => element.matches("textarea, input:not([type]), input[type=text], input[type=number]");
    let undone = false;

    function onUndoKey(event) {
        if (!root || !root.isConnected || !(event.ctrlKey || event.metaKey) || event.altKey) return;
        const key = event.key.toLowerCase();
        const by = key === "z" ? (event.shiftKey ? 1 : -1) : key === "y" && !event.shiftKey ? 1 : 0;
        const here = event.target === document.body || root.contains(event.target);
        if (!by || !here || !visible(root)) return;
        if (isText(event.target) && typed.has(event.target)) {
            undone = false;
            setTimeout(() => undone || step(by), NATIVE_MS);
        } else {
            event.preventDefault();
            step(by);
        }
    }

    function onInput(event) {
        const owner = event.target.closest("[id^=elemental_]");
        if (!owner || owner.closest("#elemental_bridges")) return;
        const isNative = String(event.inputType || "").startsWith("history");
        undone = undone || isNative;
        if (event.isTrusted && isText(event.target)) {
            if (!isNative) typed.add(event.target);
            touched.add(owner.id);
        } else {
            touched.add("*");
        }
        keepSoon();
    }

    /* A click changes something else than what was typed before it: that is a step of its own. */
    function onPress(event) {
        if (waiting && !isText(event.target)) keepNow();
    }

    function onClick(event) {
        const button = event.target.closest("[data-step]");
        if (button) {
            step(Number(button.dataset.step));
            return;
        }
        if (event.target.closest("#elemental_bridges")) return; // this script's own
        if (!isText(event.target)) touched.add("*");
        keepSoon();
    }

    /* ---- the beginning ---- */

    let begun = false;

    function begin(filled) {
        if (begun) return;
        begun = true;
        root.dataset.ready = "1";
        root.dispatchEvent(new CustomEvent("elemental-ready"));
        setTimeout(() => {
            root.dataset.filled = "1";
            root.dispatchEvent(new CustomEvent("elemental-filled"));
            restoreOwn();
            keepSoon();
        }, filled ? SETTLE_MS : 0);
    }

    function boot(since) {
        if (begun || !root.isConnected) return;
        if (kept.page) send({first: true, page: kept.page, texts: kept.texts});
        else press("elemental_boot");
        if (Date.now() - since < FILL_MS) setTimeout(() => boot(since), BOOT_MS);
        else begin(false);
    }

    /* What the server has filled changes what it says beside the fields. */
    const ANSWERS = ["plot_answer", "check_answer", "history_answer", "preset_answer", "spec_preset_answer"];
    let said = "";

    function watchAnswers() {
        const report = root.querySelector(".elemental-report");
        const answers = ANSWERS.map((id) => byId(`elemental_${id}`)).map((place) => (place ? place.textContent : ""));
        const now = [report ? report.dataset.number : "", ...answers].join("|");
        if (now !== said) keepSoon();
        said = now;
    }

    function onChange() {
        watchAnswers();
        if (!begun && root.querySelector(".elemental-live[data-first]")) begin(true);
        takeAnswer();
    }

    function start() {
        root.dataset.form = "1";
        kept = {page: "", texts: {}, own: {}, ...read(STORE, {})};
        steps = read(STEPS, {states: [], at: -1});
        root.addEventListener("input", onInput);
        root.addEventListener("change", keepSoon);
        root.addEventListener("focusout", () => (session = ""));
        root.addEventListener("pointerdown", onPress, true);
        root.addEventListener("click", onClick);
        let planned = false;
        new MutationObserver(() => {
            if (planned) return;
            planned = true;
            requestAnimationFrame(() => {
                planned = false;
                onChange();
            });
        }).observe(root, {childList: true, subtree: true});
        boot(Date.now());
        showSteps();
    }

    function findRoot() {
        if (root && root.isConnected) return;
        const tab = byId(ROOT);
        if (tab && !tab.dataset.form && inputOf("elemental_spec") && byId("elemental_keep") && inputOf("elemental_refill")) {
            root = tab;
            begun = false;
            start();
        }
    }

    const whileThere = (act) => () => root && root.isConnected && act();
    document.addEventListener("keydown", onUndoKey, true);
    document.addEventListener("visibilitychange", whileThere(() => document.hidden && leave()));
    addEventListener("pagehide", whileThere(leave));
    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
