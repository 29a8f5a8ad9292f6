/* The Search panel: images are picked by clicks and keys, and what is picked is sent to the server with the button that was
   pressed. What is picked stays on the page, as the list is drawn anew, until the round is another one. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const PANEL = "#elemental_panel_search";
    const BOARD = `${PANEL} .elemental-search`;
    const BADGES = ["1st", "2nd", "3rd"];
    const STORE = "elemental_search"; // what is picked, of this page alone, until it is closed
    const ANSWER_MS = 10000; // without an answer the buttons work again

    let root = null;
    let picked = {of: "", order: []}; // the numbers of candidates, the best first, and of which round
    let count = 0; // of what was sent
    let awaited = 0; // the number of the request whose answer is awaited; 0 for none
    let waiting = 0;
    let held = ""; // a selector of what had the focus within the board, which is drawn anew
    let started = null; // {before, blank}: which search was shown when another one was begun, and whether nothing varied

    const board = () => root.querySelector(BOARD);
    const roundOf = (shown) => `${shown.dataset.search} ${shown.dataset.round}`;

    /* ---- picking ---- */

    function readPicked() {
        try {
            picked = {...picked, ...JSON.parse(sessionStorage.getItem(STORE) || "{}")};
        } catch {
            // then nothing is picked
        }
    }

    function orderOf(shown) {
        if (picked.of !== roundOf(shown)) picked = {of: roundOf(shown), order: []};
        return picked.order;
    }

    function pick(number) {
        const shown = board();
        const button = shown && shown.querySelector(`[data-candidate="${number}"]`);
        if (!button || button.disabled) return;
        const order = orderOf(shown);
        if (order.includes(number)) picked.order = order.filter((other) => other !== number);
        else if (order.length < BADGES.length) order.push(number);
        else order[order.length - 1] = number;
        try {
            sessionStorage.setItem(STORE, JSON.stringify(picked));
        } catch {
            // then it is forgotten when the page is loaded anew
        }
        drawPicked();
    }

    function drawPicked() {
        const shown = board();
        if (!shown) return;
        const order = orderOf(shown);
        for (const button of shown.querySelectorAll("[data-candidate]")) {
            const badge = BADGES[order.indexOf(Number(button.dataset.candidate))] || "";
            const place = button.querySelector(".badge");
            if (place.textContent !== badge) place.textContent = badge;
            button.setAttribute("aria-pressed", String(Boolean(badge)));
            const {name} = button.dataset;
            const label = badge ? `${name}, picked as ${badge}` : name;
            if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
        }
        for (const button of shown.querySelectorAll("[data-act], [data-search-use]")) {
            const none = button.dataset.act === "next" && !order.length;
            button.disabled = Boolean(awaited) || none || "off" in button.dataset;
        }
    }

    /* ---- what the buttons ask the server for ---- */

    function send(bridge, text) {
        const input = root.querySelector(`#elemental_${bridge} textarea, #elemental_${bridge} input`);
        if (!input || awaited) return;
        awaited = Date.now();
        count = awaited;
        input.value = `${text}\n${count}`;
        input.dispatchEvent(new Event("input", {bubbles: true}));
        clearTimeout(waiting);
        waiting = setTimeout(allow, ANSWER_MS);
        drawPicked();
    }

    function allow() {
        clearTimeout(waiting);
        awaited = 0;
        drawPicked();
    }

    function takeAnswer() {
        const answer = root.querySelector("#elemental_search_answer [data-number]");
        if (awaited && answer && answer.dataset.number === String(count)) allow();
    }

    function act(name) {
        const shown = board();
        if (shown) send("search_act", [name, roundOf(shown), ...orderOf(shown)].join(" "));
    }

    function use(name) {
        const shown = board();
        if (shown) send("search_use", [name, roundOf(shown), ...orderOf(shown)].join(" "));
    }

    function next() {
        const button = root.querySelector(`${BOARD} [data-act=next]`);
        if (button && !button.disabled) act("next");
    }

    /* ---- events ---- */

    /* The second click of two takes back what the first has done. */
    function onClick(event) {
        const {target} = event;
        if (target.closest("#elemental_run_search")) noteStart();
        if (!target.closest(BOARD)) return;
        const candidate = target.closest("[data-candidate]");
        const look = target.closest("[data-compare]");
        const button = target.closest("[data-act]");
        const used = target.closest("[data-search-use]");
        if (candidate) pick(Number(candidate.dataset.candidate));
        else if (look) compare(Number(look.dataset.compare), 0, look);
        else if (button) act(button.dataset.act);
        else if (used) use(used.dataset.searchUse);
    }

    function onDoubleClick(event) {
        const candidate = event.target.closest(`${BOARD} [data-candidate]`);
        if (!candidate) return;
        const image = event.target.closest("img");
        const at = image ? Number(image.dataset.file.split(" ").pop()) : 0;
        compare(Number(candidate.dataset.candidate), at, candidate);
    }

    const TYPED = "input, textarea, select, [contenteditable=true], [role=listbox], [role=combobox]";

    function onKey(event) {
        const {target, key} = event;
        if (event.ctrlKey || event.metaKey || event.altKey || !board()) return;
        if (!target.closest(PANEL) || target.closest(TYPED)) return;
        if (/^[0-9]$/.test(key)) {
            pick(Number(key));
            event.preventDefault();
        } else if (key === "Enter" && (!target.closest("button") || target.closest("[data-candidate]"))) {
            event.preventDefault(); // a button does what it does elsewhere; an image is picked by the space bar
            next();
        }
    }

    /* ---- the viewer: the same image of all candidates, beside that of the best so far ---- */

    function compare(number, at, opener) {
        const images = Array.from(board().querySelectorAll(`img[data-file$=" ${at}"][src]`));
        const numberOf = (image) => Number(image.closest("li").querySelector("[data-candidate]").dataset.candidate);
        const items = images.map((image) => ({src: image.src, caption: image.alt}));
        const index = images.findIndex((image) => numberOf(image) === number);
        const pinned = items[images.findIndex((image) => numberOf(image) === 0)] || null;
        if (index < 0) return;
        root.dispatchEvent(new CustomEvent("elemental-compare", {detail: {items, index, pinned, opener}}));
    }

    /* ---- what the server has drawn ---- */

    /* gradio gives addresses only to what one of its components shows: a hidden gallery, which has them by name. */
    function fillImages() {
        const found = new Map();
        for (const image of root.querySelectorAll("#elemental_search_images img")) found.set(image.alt, image.src);
        for (const image of root.querySelectorAll(`${BOARD} img[data-file]`)) {
            const src = found.get(image.dataset.file);
            if (src && image.src !== src) image.src = src;
        }
    }

    function noteStart() {
        const shown = board();
        const field = root.querySelector("#elemental_vary textarea");
        started = {before: shown ? shown.dataset.search : "", blank: Boolean(field) && !field.value.trim()};
    }

    /* A search that was begun here comes into view. What varies is chosen by the server where the field is blank. */
    function greet() {
        const shown = board();
        if (!shown || !started || started.before === shown.dataset.search) return;
        const {blank} = started;
        started = null;
        shown.scrollIntoView({block: "nearest"});
        const field = root.querySelector("#elemental_vary textarea");
        if (!blank || !field || field.value.trim()) return;
        field.value = shown.dataset.vary;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function holdFocus() {
        if (!held || document.activeElement !== document.body) return;
        const shown = board();
        const target = shown && shown.offsetParent !== null && (shown.querySelector(held) || shown);
        if (target) (target.disabled ? shown : target).focus({preventScroll: true});
    }

    function onFocus(event) {
        const shown = event.target.closest(BOARD);
        const {candidate, compare: look, act: name, searchUse: used} = event.target.dataset;
        if (!shown) held = "";
        else if (candidate) held = `[data-candidate="${candidate}"]`;
        else if (look) held = `[data-compare="${look}"]`;
        else if (name) held = `[data-act="${name}"]`;
        else held = used ? `[data-search-use="${used}"]` : "section";
    }

    function onChange() {
        takeAnswer();
        fillImages();
        greet();
        drawPicked();
        holdFocus();
    }

    function start() {
        root.dataset.picks = "1";
        readPicked();
        root.addEventListener("click", onClick);
        root.addEventListener("dblclick", onDoubleClick);
        root.addEventListener("keydown", onKey);
        document.addEventListener("focusin", onFocus);
        document.addEventListener("pointerdown", (event) => {
            if (!event.target.closest(BOARD)) held = "";
        });
        let pending = false;
        new MutationObserver(() => {
            if (pending) return;
            pending = true;
            requestAnimationFrame(() => {
                pending = false;
                onChange();
            });
        }).observe(root, {childList: true, subtree: true, attributeFilter: ["src"]});
        onChange();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    function findRoot() {
        if (root && root.isConnected) return;
        const tab = document.getElementById(ROOT);
        if (!tab || tab.dataset.picks || !tab.querySelector("#elemental_bridges")) return;
        root = tab;
        start();
    }

    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
