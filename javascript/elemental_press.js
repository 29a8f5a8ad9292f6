/* Between mouse down and mouse up, a button can be replaced or moved away, and browsers send it no click then; or it can
   become that of another entry, which the click would be for. A press counts for what was there when it began: a copy of
   what the server draws anew whenever it has news, and any other button itself. */
(function () {
    "use strict";

    const OF_RESULTS = ["queue", "table", "details", "products", "gallery", "gif_view", "strip"];
    const DRAWN_ANEW = [...OF_RESULTS, "map", "history", "cards", "search_board"];
    const OURS = DRAWN_ANEW.map((name) => `#elemental_tab #elemental_${name}`).join();
    const AT_REST = 6; // screen pixels that a hand moves during a click

    const BUTTONS = "#elemental_tab button";

    let pressed = null; // {target, owner, said, copy, at}: what, within which part, and where; other buttons have no owner
    let replaced = false; // the click that follows is for what stands there now

    const place = (event) => [event.clientX ?? 0, event.clientY ?? 0]; // keys have none

    function around(target, owner) {
        const chain = [];
        for (let element = target; element && element !== owner; element = element.parentElement) chain.push(element);
        return chain;
    }

    /* By what the page's scripts tell one thing from another. */
    function saying(target, owner) {
        return JSON.stringify(around(target, owner).map((element) => [element.tagName, {...element.dataset}, element.src]));
    }

    function begin(event) {
        pressed = null;
        const target = event.target instanceof Element ? event.target : null;
        if (!target || target.closest(":disabled")) return;
        const owner = target.closest(OURS);
        const button = target.closest(BUTTONS);
        if (!owner && button) pressed = {target: button, at: place(event)};
        if (!owner || owner === target) return;
        pressed = {target, owner, said: saying(target, owner), copy: copyOf(target, owner), at: place(event)};
    }

    /* The table, button or image with what it stands in, but not what else stands there. */
    function copyOf(target, owner) {
        const whole = target.closest("table") || target.closest("button") || target;
        let top = whole.cloneNode(true);
        const at = Array.from(whole.querySelectorAll("*")).indexOf(target);
        const twin = at < 0 ? top : top.querySelectorAll("*")[at];
        for (const element of around(whole.parentElement, owner)) {
            const outer = element.cloneNode(false);
            outer.append(top);
            top = outer;
        }
        return {top, twin};
    }

    /* The browser sends the click to what was pressed if that is there, is what it was, and is still under the pointer. */
    function isCounted({target, owner, said}, event) {
        const whole = target.closest("button") || target;
        const under = event.type === "keyup" || whole.contains(event.target);
        return under && target.isConnected && (!owner || saying(target, owner) === said);
    }

    function end(event) {
        const press = pressed;
        pressed = null;
        if (!press || isCounted(press, event)) return;
        const [x, y] = place(event);
        if (Math.hypot(x - press.at[0], y - press.at[1]) > AT_REST) return; // let go elsewhere, it is called off
        replaced = true;
        setTimeout(() => {
            replaced = false;
            if (!press.owner) press.target.click();
            else if (press.owner.isConnected) click(press.copy, press.owner);
        }, 0);
    }

    /* The copy is on the page as long as the click takes, so that whoever listens finds it where it was. */
    function click({top, twin}, owner) {
        owner.append(top);
        twin.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, composed: true, detail: 1}));
        top.remove();
    }

    function onClick(event) {
        if (!replaced || !event.isTrusted) return;
        event.preventDefault();
        event.stopImmediatePropagation();
    }

    const isSpace = (event) => event.key === " " && event.target instanceof Element;

    addEventListener("mousedown", (event) => event.button === 0 && begin(event), true);
    addEventListener("mouseup", (event) => event.button === 0 && end(event), true);
    addEventListener("keydown", (event) => {
        if (isSpace(event) && !event.repeat && event.target.closest("button")) begin(event);
    }, true);
    addEventListener("keyup", (event) => isSpace(event) && end(event), true);
    addEventListener("click", onClick, true);
})();
