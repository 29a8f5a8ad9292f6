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
    let goal = null; // {src, caption}: an image of the user's that the others are seen beside
    let folded = ""; // the search for which the fields were folded away
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
            const {act: name} = button.dataset;
            const useless = (name === "next" && !order.length) || (name === "none" && order.length > 0);
            button.disabled = Boolean(awaited) || useless || "off" in button.dataset;
        }
        const used = shown.querySelector("[data-search-use=use]");
        const label = `Use ${order[0] || shown.dataset.best}`;
        if (used.textContent !== label) used.textContent = label;
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
        if (target.closest("#elemental_run_search, #elemental_run_another")) noteStart();
        if (target.closest(`${PANEL} .elemental-goal button`)) {
            setGoal(null);
            goalPlace().querySelector("input").focus(); // the button hides itself
        }
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

    /* ---- the viewer: the same image of all candidates, beside that of the best so far; they can be picked there, too ---- */

    function compare(number, at, opener) {
        const images = Array.from(board().querySelectorAll(`img[data-file$=" ${at}"][src]`));
        const numberOf = (image) => Number(image.closest("li").querySelector("[data-candidate]").dataset.candidate);
        const items = images.map((image) => ({src: image.src, caption: image.alt, number: numberOf(image)}));
        const index = images.findIndex((image) => numberOf(image) === number);
        const best = items[images.findIndex((image) => numberOf(image) === 0)] || null;
        const pinned = goal || best;
        if (index < 0) return;
        if (goal) items.push(goal);
        root.dispatchEvent(new CustomEvent("elemental-compare", {detail: {items, index, pinned, opener, picks: picksOf(board())}}));
    }

    /* What the viewer needs to pick images of a round, which ends if another page judges it meanwhile. */
    function picksOf(shown) {
        const of = roundOf(shown);
        const isShown = () => Boolean(board()) && roundOf(board()) === of;
        return {
            isOpen: isShown,
            badge: (number) => (isShown() && BADGES[orderOf(board()).indexOf(number)]) || "",
            pick: (number) => isShown() && pick(number),
        };
    }

    /* ---- the goal: it stays on this page, and is sent nowhere ---- */

    const goalPlace = () => root.querySelector(`${PANEL} .elemental-goal`);

    function setGoal(file, said = "Seen beside each image when it is large. The search is not told of it.") {
        const place = goalPlace();
        const image = place.querySelector("img");
        if (goal) URL.revokeObjectURL(goal.src);
        goal = file ? {src: URL.createObjectURL(file), caption: `The goal, ${file.name}`} : null;
        if (goal) image.src = goal.src;
        else image.removeAttribute("src");
        if (!goal) place.querySelector("input").value = "";
        image.hidden = !goal;
        place.querySelector("button").hidden = !goal;
        place.querySelector("[role=status]").textContent = said;
    }

    function onGoal({target}) {
        if (target.matches(`${PANEL} .elemental-goal input`) && target.files.length) setGoal(target.files[0]);
    }

    function onBroken({target}) {
        if (goal && target.src === goal.src) setGoal(null, "This file cannot be shown as an image; choose another one.");
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
        fold(shown, true);
        shown.scrollIntoView({block: "nearest"});
        const field = root.querySelector("#elemental_vary textarea");
        if (!blank || !field || field.value.trim()) return;
        field.value = shown.dataset.vary;
        field.dispatchEvent(new Event("input", {bubbles: true}));
    }

    /* The fields make room for the images, once for each search; not while somebody types there, unless it was begun here. */
    function fold(shown, begun = false) {
        const box = root.querySelector("#elemental_search_box");
        const heading = box && box.querySelector(".label-wrap");
        if (!shown || !heading || folded === shown.dataset.search) return;
        folded = shown.dataset.search;
        const inside = box.contains(document.activeElement);
        if (!heading.classList.contains("open") || (inside && !begun)) return;
        heading.click();
        if (inside) shown.focus({preventScroll: true});
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
        fold(board());
        drawPicked();
        holdFocus();
    }

    function start() {
        root.dataset.picks = "1";
        readPicked();
        root.addEventListener("click", onClick);
        root.addEventListener("dblclick", onDoubleClick);
        root.addEventListener("change", onGoal);
        root.addEventListener("input", (event) => {
            if (event.isTrusted && event.target.closest("#elemental_search_box")) started = null; // what was begun has failed
        });
        root.addEventListener("error", onBroken, true);
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
