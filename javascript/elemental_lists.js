/* Lists that scroll: browsers give them the focus when one leaves their field by the Tab key, and gradio takes them away or
   draws them anew then, so that the focus is lost. Tab goes on to the next field. (That gradio 6 leaves the list open is
   mended in style.css.) */
(function () {
    "use strict";

    function onTab(event) {
        if (event.key !== "Tab" || !(event.target instanceof HTMLInputElement)) return;
        const field = event.target.closest("#elemental_tab [id^=elemental_]");
        const list = field && field.querySelector("ul[role=listbox], ul.options");
        if (list) list.tabIndex = -1;
    }

    document.addEventListener("keydown", onTab, true);
})();
