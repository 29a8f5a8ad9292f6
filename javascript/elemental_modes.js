/* The menu of modes: groups with their names, and what each mode is for. Lists of gradio have neither, so both are written
   on the items of the list while it is open; what is chosen and shown stays the mode's name. */
(function () {
    "use strict";

    const FIELD = "#elemental_tab #elemental_mode";

    let watched = null;

    function explain() {
        const told = document.querySelector("#elemental_tab [data-modes]");
        const items = Array.from(watched.querySelectorAll("ul li"));
        const modes = told && items.length ? JSON.parse(told.dataset.modes) : {};
        let last = "";
        for (const item of items) {
            const name = item.textContent.replace(/^\W+/, "").trim();
            const [group, purpose] = modes[name] || ["", ""];
            write(item, "group", group === last ? "" : group);
            write(item, "purpose", purpose);
            item.setAttribute("aria-description", purpose);
            last = group;
        }
    }

    function write(item, name, text) {
        if (text) item.dataset[name] = text;
        else delete item.dataset[name];
    }

    /* While one types, the same items show other modes. */
    const observer = new MutationObserver(explain);

    function onFocus(event) {
        const field = event.target instanceof Element && event.target.closest(FIELD);
        if (!field || field === watched) return;
        watched = field;
        observer.disconnect();
        observer.observe(field, {childList: true, characterData: true, subtree: true});
        explain();
    }

    document.addEventListener("focusin", onFocus);
})();
