/* The lists of the plot panel: what is picked is sent to the server, which writes it behind the values of the axis. */
(function () {
    "use strict";

    let count = 0; // of what was sent, so that the same is a change again

    const listOf = (event) => event.target instanceof Element && event.target.closest("#elemental_tab [data-pick]");

    function send(list) {
        const input = document.querySelector("#elemental_pick textarea, #elemental_pick input");
        if (!list || !list.value || !input) return;
        count += 1;
        input.value = `${list.dataset.pick}\n${list.value}\n${count}`;
        input.dispatchEvent(new Event("input", {bubbles: true}));
        list.value = "";
    }

    /* An arrow key would pick whatever is next in a closed list. */
    function open(event) {
        const list = listOf(event);
        if (!list || !["ArrowDown", "ArrowUp"].includes(event.key) || !list.showPicker) return;
        event.preventDefault();
        list.showPicker();
    }

    document.addEventListener("change", (event) => send(listOf(event)));
    document.addEventListener("keydown", open);
})();
