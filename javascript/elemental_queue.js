/* The buttons of jobs that wait, and how far jobs are for people who look elsewhere: in the page's title, and by the
   browser's notifications. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const AWAY_MS = 3000; // between two questions of a page that is hidden
    const ANSWER_MS = 10000; // without an answer the next button has its turn
    const LONG_S = 30; // jobs that take less are not worth a notification
    const MOST_LETTERS = 200;
    const KEPT = "elemental_notify";

    let root = null;

    const find = (selector) => root.querySelector(selector);

    /* ---- the page's title ---- */

    let own = null; // the title that the page has without us, while a job runs
    let shown = null; // the one that we have put in its place

    /* The WebUI writes the title, too, twice a second, as long as it shows how far its own images are. It has the word then,
       and so has whoever puts something before the title: ours is written over its own title alone. */
    function entitle(percent) {
        const title = document.title;
        if (title !== shown && title !== own) {
            if (own !== null && title.endsWith(own)) return;
            own = title;
        }
        if (percent === "") {
            if (title === shown) document.title = own;
            own = shown = null;
        } else if (!document.querySelector(".progressDiv")) {
            shown = `${percent} % · ${own}`;
            if (title !== shown) document.title = shown;
        }
    }

    /* ---- jobs that end ---- */

    const open = new Set(); // the numbers of jobs that had not ended when they were seen
    const over = new Set(); // of those that have: a page that was hidden still shows what was before

    function note(jobs, percent) {
        let ended = false;
        for (const job of jobs.filter((known) => !over.has(known.job))) {
            const goesOn = job.state === "waiting" || job.state === "running";
            if (goesOn) open.add(job.job);
            else over.add(job.job);
            if (goesOn || !open.delete(job.job)) continue;
            ended = true;
            if (Number(job.took) >= LONG_S) notify(job);
        }
        entitle(percent);
        if (ended) root.dispatchEvent(new Event("elemental-ended"));
    }

    const textOf = (item) => (item.querySelector("pre, p") || item).textContent;

    function look() {
        if (!root.dataset.ready) return; // before, the host may not have noted its page's title yet
        const items = root.querySelectorAll("#elemental_queue [data-state], #elemental_progress [data-state]");
        const bar = find("#elemental_progress .running progress");
        const isOld = bar && over.has(bar.closest("[data-job]").dataset.job);
        const jobs = Array.from(items, (item) => ({...item.dataset, text: textOf(item)}));
        note(jobs, bar && !isOld ? bar.getAttribute("value") : "");
    }

    /* ---- a page that is hidden ---- */

    let timer = 0;

    /* gradio 4 shows answers in the next animation frame, and hidden pages have none: so the question is asked without it. */
    async function askAway() {
        const {components, dependencies, api_prefix: prefix} = globalThis.gradio_config;
        const {id} = components.find((part) => part.props.elem_id === "elemental_away");
        const body = {data: [], session_hash: "elemental_away"};
        body.fn_index = dependencies.findIndex((event) => event.targets.flat().includes(id));
        const headers = {"Content-Type": "application/json"};
        const answer = await fetch(`.${prefix || ""}/run/predict`, {method: "POST", headers, body: JSON.stringify(body)});
        const told = JSON.parse((await answer.json()).data[0]);
        const jobs = told.jobs.map((job) => ({...job, text: told.texts[job.job] || ""}));
        note(jobs, told.percent);
        for (const job of open) if (!jobs.some((known) => known.job === job)) open.delete(job);
    }

    function onVisibility() {
        clearTimeout(timer);
        if (!document.hidden || !open.size) return;
        timer = setTimeout(() => askAway().catch(() => {}).finally(onVisibility), AWAY_MS);
    }

    /* ---- notifications ---- */

    const sees = () => !document.hidden && document.hasFocus() && root.offsetParent !== null;
    const permission = () => (typeof Notification === "undefined" ? "denied" : Notification.permission);

    function kept() {
        try {
            return localStorage.getItem(KEPT) === "1";
        } catch {
            return false; // the browser keeps nothing for this page
        }
    }

    function keep(wanted) {
        try {
            localStorage.setItem(KEPT, wanted ? "1" : "");
        } catch {
            // then it is for this visit
        }
    }

    function notify(job) {
        const box = find(".elemental-notify input");
        if (!box || !box.checked || permission() !== "granted" || sees()) return;
        try {
            const options = {body: job.text.trim().slice(0, MOST_LETTERS), tag: ROOT};
            const words = new Notification(`${job.name}: ${job.state}`, options);
            words.onclick = () => {
                focus();
                words.close();
            };
        } catch {
            // mobile browsers have them for installed pages only
        }
    }

    /* The browser is asked for its permission when the box is ticked, and at no other time. */
    async function onTick(box) {
        const wanted = box.checked;
        const allowed = !wanted || permission() === "granted" || (await ask()) === "granted";
        box.checked = wanted && allowed;
        box.parentElement.querySelector("[role=status]").textContent = allowed ? "" : "The browser does not allow it.";
        keep(box.checked);
    }

    const ask = () => (permission() === "default" ? Notification.requestPermission() : permission());

    function fillBox() {
        const box = find(".elemental-notify input:not([data-filled])");
        if (!box) return;
        box.dataset.filled = "1";
        box.checked = kept() && permission() === "granted";
    }

    /* ---- the buttons of the queue ---- */

    const acts = []; // one is sent at a time: up to gradio 3 a second one would be dropped
    let count = 0;
    let waiting = 0;
    let held = null; // the button that was pressed last: the list is drawn anew, and the keyboard stays where it was

    function onClick(event) {
        const button = event.target.closest("#elemental_queue [data-queue]");
        if (!button) return;
        const item = button.closest("[data-job]");
        const job = item ? item.dataset.job : "";
        held = {act: button.dataset.queue, job, until: Date.now() + ANSWER_MS};
        acts.push(`${held.act} ${job}`.trim());
        if (acts.length === 1) sendAct();
    }

    function sendAct() {
        const input = find("#elemental_queue_act textarea, #elemental_queue_act input");
        clearTimeout(waiting);
        if (!input || !acts.length) return;
        count += 1;
        input.value = `${acts[0]}\n${count}`;
        input.dispatchEvent(new Event("input", {bubbles: true}));
        waiting = setTimeout(nextAct, ANSWER_MS);
    }

    function nextAct() {
        acts.shift();
        sendAct();
    }

    function takeAnswer() {
        const answer = find("#elemental_queue_answer [data-number]");
        if (acts.length && answer && answer.dataset.number === String(count)) nextAct();
    }

    function holdFocus() {
        if (!held || Date.now() > held.until || document.activeElement !== document.body) return;
        const item = find(`#elemental_queue ol [data-job="${held.job}"]`) || find("#elemental_queue ol [data-job]");
        const usable = item && Array.from(item.querySelectorAll("[data-queue]:enabled"));
        if (usable) (usable.find((button) => button.dataset.queue === held.act) || usable[0]).focus();
    }

    function onChange() {
        fillBox();
        takeAnswer();
        holdFocus();
        look();
        onVisibility();
    }

    function start() {
        root.dataset.queue = "1";
        root.addEventListener("click", onClick);
        root.addEventListener("elemental-ready", look);
        root.addEventListener("change", (event) => {
            if (event.target.closest(".elemental-notify")) onTick(event.target);
        });
        // at once, and not in the next frame, which a hidden page does not have
        new MutationObserver(onChange).observe(root, {childList: true, subtree: true});
        onChange();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    function findRoot() {
        if (root && root.isConnected) return;
        const tab = document.getElementById(ROOT);
        if (!tab || tab.dataset.queue) return;
        root = tab;
        start();
    }

    document.addEventListener("visibilitychange", () => {
        if (root && root.isConnected) onVisibility();
    });
    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
