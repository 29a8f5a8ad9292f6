/* The viewer: an image of the results whole and as large as wanted, one pinned image against any other, and the strip of
   the images before. The galleries stay the source of the images and of their captions; the page remembers no more than
   addresses and captions. */
(function () {
    "use strict";

    const ROOT = "elemental_tab";
    const STORE = "elemental_viewer"; // of this page alone, until it is closed
    const SHOWN = "#elemental_gif_view img, #elemental_products img, #elemental_gallery img";
    const STRIP = ".elemental-strip";
    const MOST_KEPT = 40;
    const DRAWN = /\/(grid|ranking|effect|simplified)[^/]*\.png$/; // names of files that show several images, or figures
    const MANY = 12; // of a job with more images, the strip keeps grids and charts, and what was looked at
    const MOST_ZOOM = 16; // screen pixels for one of the image
    const STEP = 1.25; // of the zoom
    const LONG = 2; // windows that a sheet is long, at least, to be begun at its top
    const PAN = 80; // screen pixels for an arrow key
    const SHARP = 3; // from this zoom on, pixels are drawn as squares
    const BEGINS_MS = 5000; // after this time a job that begins is not the button's that was pressed
    const NARROW = "(max-width: 1000px)"; // as in style.css
    const MOST_SIDE = 4096; // of images whose difference is computed
    const THRESHOLD = 20; // a channel value that differs by more counts as changed, as in the table of a check
    const FULL = [255, 128, 64, 32, 16, 8]; // differences that can be drawn in full colour
    const COLOURS = [[0, 0, 0], [70, 20, 110], [180, 40, 90], [240, 130, 30], [255, 255, 200]]; // from none to full

    let root = null;
    let kept = {earlier: [], shown: [], pinned: null}; // items: {src, caption}
    let viewer = null; // the parts of the dialog by name
    let items = [];
    let index = 0;
    let opener = null; // the image that was clicked
    let chosen = ""; // the address of the image that was seen last, which the buttons below images are for
    let ofHistory = false; // whether the images are those of the history, or of a search
    const page = document.documentElement.style; // its scroll bar would lie over the viewer's right edge
    let scrolls = ""; // what it had for that
    let before = null; // the image that was pinned before a search pinned its own; null if it has not
    let picks = null; // how images of a search are picked; null for others
    let mode = ""; // how the pinned image is compared: "slider", "flip", "difference"
    let flipped = false;
    let split = 0.5; // where the slider stands, as a part of the image's width
    let zoom = 1; // 1 shows the whole image
    let begins = true; // whether it is still to be seen how the image begins
    let begun = 0; // the zoom that a long sheet has begun with; 0 if none has
    let shift = [0, 0]; // of the image's centre from the window's, in screen pixels
    let full = 0; // the difference in full colour; 0: as the two images need it

    const byId = (id) => document.getElementById(id);
    const current = () => items[index];
    const isPinned = (item) => Boolean(item && kept.pinned && kept.pinned.src === item.src);
    const comparing = () => (kept.pinned && current() && !isPinned(current()) ? mode : "");

    function make(tag, className, properties = {}) {
        const element = Object.assign(document.createElement(tag), properties);
        if (className) element.className = className;
        return element;
    }

    /* ---- the images there are ---- */

    function itemOf(image) {
        return {src: image.src, caption: image.alt || decodeURIComponent(image.src.split("/").pop())};
    }

    const shownImages = () => Array.from(root.querySelectorAll(SHOWN)).filter((image) => image.src);
    const isIn = (list, item) => list.some((other) => other.src === item.src);

    /* First those of the results, then those before, the newest first. */
    function allItems() {
        const shown = shownImages().map(itemOf);
        const others = kept.pinned ? [...kept.earlier, kept.pinned] : kept.earlier;
        const earlier = others.filter((item, at) => !isIn(shown, item) && !isIn(others.slice(0, at), item));
        return [...shown, ...earlier.reverse()];
    }

    function readKept() {
        try {
            kept = {...kept, ...JSON.parse(sessionStorage.getItem(STORE) || "{}")};
        } catch {
            kept = {earlier: [], shown: [], pinned: null};
        }
        if (kept.pinned && kept.pinned.src.startsWith("blob:")) kept.pinned = null; // the goal of a search, gone with its page
    }

    function writeKept() {
        try {
            sessionStorage.setItem(STORE, JSON.stringify(before ? {...kept, pinned: before.item} : kept));
        } catch {
            kept.earlier.splice(0, kept.earlier.length / 2); // there is no room for so many
        }
    }

    function keep(item) {
        if (item.src.startsWith("data:")) return;
        kept.earlier = [...kept.earlier.filter((other) => other.src !== item.src), item].slice(-MOST_KEPT);
    }

    /* What another job's images have taken the place of goes into the strip. */
    function noteShown() {
        const found = shownImages();
        const shown = found.map((image) => ({...itemOf(image), cell: Boolean(image.closest("#elemental_gallery"))}));
        for (const image of root.querySelectorAll("#elemental_gif_view img")) {
            Object.assign(image, {tabIndex: 0}).setAttribute("role", "button");
        }
        const there = new Set(shown.map((item) => item.src));
        const gone = kept.shown.filter((item) => !there.has(item.src));
        const cells = gone.filter((item) => item.cell).length;
        for (const item of gone) if (!item.cell || cells <= MANY) keep({src: item.src, caption: item.caption});
        kept.shown = shown.filter((item) => !item.src.startsWith("data:"));
        writeKept();
        drawStrip();
        drawSending();
    }

    /* ---- the buttons below images ---- */

    const chosenImage = () => shownImages().find((image) => image.src === chosen) || firstImage();
    const firstImage = () => root.querySelector("#elemental_gallery img") || shownImages()[0];

    function drawSending() {
        const row = root.querySelector(".elemental-sending");
        if (!row) return;
        const image = chosenImage();
        row.hidden = !image || !row.children.length;
        for (const button of row.children) button.disabled = !image || !canSend(button.dataset.send, itemOf(image));
        const several = shownImages().length > 1;
        for (const other of shownImages()) {
            const place = other.closest("button") || other;
            place.classList.toggle("elemental-chosen", several && other === image);
        }
    }

    /* A grid or a chart was not made by one request, and a drawing of this page is no file. */
    function canSend(what, item) {
        return Boolean(pathOf(item)) && (what === FOLDER || !isDrawn(item));
    }

    function onSend(event) {
        const button = event.target.closest(".elemental-sending [data-send]");
        if (button) send("send", `${button.dataset.send}\n${pathOf(itemOf(chosenImage()))}`);
    }

    let sent = ""; // the last answer that was seen

    /* The server has put image and infotext where the host's own page takes them from. */
    function passOn() {
        const mark = root.querySelector("#elemental_sent [data-number]");
        if (!mark || mark.dataset.number === sent) return;
        sent = mark.dataset.number;
        const place = byId(`elemental_to_${mark.dataset.page}`);
        const button = place && (place.tagName === "BUTTON" ? place : place.querySelector("button"));
        if (button) setTimeout(() => button.click(), 0);
    }

    function drop(src) {
        kept.earlier = kept.earlier.filter((item) => item.src !== src);
        if (kept.pinned && kept.pinned.src === src) kept.pinned = null;
        writeKept();
        drawStrip();
    }

    /* An image that cannot be loaded is dropped if the server is there, but the file is gone. */
    function dropIfGone(src) {
        fetch(src).then((answer) => answer.ok || drop(src), () => {});
    }

    function clearStrip() {
        kept = {...kept, earlier: [], pinned: null};
        writeKept();
        drawStrip();
        if (!viewer || !viewer.dialog.open) return;
        const open = current();
        items = allItems();
        if (!isIn(items, open)) items.push(open);
        show(items.findIndex((item) => item.src === open.src));
    }

    /* ---- the strip below the results ---- */

    function thumbnail(item) {
        const button = make("button", "elemental-thumbnail", {type: "button", title: item.caption});
        const image = make("img", "", {src: item.src, alt: item.caption, loading: "lazy", decoding: "async"});
        image.addEventListener("error", () => dropIfGone(item.src));
        button.classList.toggle("pinned", isPinned(item));
        button.append(image);
        return button;
    }

    function drawStrip() {
        const strip = root.querySelector(STRIP);
        if (!strip) return;
        const shown = shownImages().map(itemOf);
        const earlier = allItems().filter((item) => !isIn(shown, item));
        const said = JSON.stringify([earlier, kept.pinned]);
        if (strip.dataset.said === said) return;
        strip.dataset.said = said;
        const clear = make("button", "elemental-clear", {type: "button", textContent: "Clear"});
        const head = make("p", "", {textContent: "Earlier images"});
        const row = make("div", "row");
        row.append(...earlier.map(thumbnail));
        head.append(clear);
        strip.replaceChildren(head, row);
        strip.hidden = !earlier.length;
    }

    /* ---- what can be done with an image: buttons of the viewer, and their keys ---- */

    const canCompare = () => Boolean(kept.pinned) && !isPinned(current());
    const badgeOf = (item) => (picks && item && item.number !== undefined && picks.badge(item.number)) || "";
    const PLAIN = [
        {
            label: "Pick",
            key: "k",
            does: (item) => picks.pick(item.number),
            on: () => Boolean(badgeOf(current())),
            says: () => (badgeOf(current()) ? `Picked ${badgeOf(current())}` : "Pick"),
            only: () => Boolean(picks),
            needs: () => Boolean(picks) && picks.isOpen() && current().number !== undefined,
        },
        {label: "Pin", key: "p", does: pin, on: () => isPinned(current())},
        {label: "Slider", key: "s", does: () => compareBy("slider"), on: () => comparing() === "slider", needs: canCompare},
        {label: "Flip", key: " ", named: "Space", does: flip, on: () => comparing() === "flip", needs: canCompare},
        {
            label: "Difference",
            key: "d",
            does: () => compareBy("difference"),
            on: () => comparing() === "difference",
            needs: canCompare,
        },
        {label: "+", key: "+", does: () => zoomTo(zoom * STEP)},
        {label: "−", key: "-", does: () => zoomTo(zoom / STEP)},
        {label: "100 %", key: "1", does: () => zoomTo(1 / scaleOfWhole())},
        {label: "Fit", key: "0", does: () => zoomTo(1)},
        {label: "Download", key: "l", does: download},
        {label: "Full screen", key: "f", does: fullScreen, on: () => Boolean(document.fullscreenElement)},
        {label: "Close", key: "Escape", named: "Esc", does: () => viewer.dialog.close()},
    ];
    const NAMES = {"+": "Zoom in", "−": "Zoom out"};
    /* What the server does with an image is sent to it over one of the tab's bridges:
       {label: "...", key: "...", sends: "bridge", text: (item) => "..."}. */
    const pathOf = (item) => decodeURIComponent(item.src.split("file=")[1] || "").split("?")[0];
    const isGrid = () => Boolean(current()) && /\/grid[^/]*\.png$/.test(pathOf(current()));
    const isDrawn = (item) => DRAWN.test(pathOf(item));
    const FOLDER = "folder";
    const SENDING_KEYS = {txt2img: "t", img2img: "i", [FOLDER]: "o"};

    /* The same as the buttons below images, which are there for what the host can. */
    function sendingActions() {
        return Array.from(root.querySelectorAll(".elemental-sending [data-send]"), (button) => ({
            label: button.textContent,
            key: SENDING_KEYS[button.dataset.send],
            sends: "send",
            text: (item) => `${button.dataset.send}\n${pathOf(item)}`,
            needs: () => canSend(button.dataset.send, current()),
            closes: button.dataset.send !== FOLDER,
        }));
    }
    const SENT = [
        {
            label: "Use",
            key: "u",
            sends: "use",
            text: (item) => `${pathOf(item)}\n`,
            needs: () => Boolean(pathOf(current())), // the goal of a search has none
            closes: true,
        },
        {label: "Use a cell", key: "c", does: () => (picking = !picking), on: () => picking, needs: isGrid},
    ];
    let picking = false; // the next click is on the cell of a grid that is to be used
    let actions = [...SENT, ...PLAIN];

    function act(action) {
        if (action.needs && !action.needs()) return;
        if (action.sends) send(action.sends, action.text(current()));
        else action.does(current());
        if (action.closes) viewer.dialog.close();
        else draw();
    }

    function useCell(event) {
        const box = viewer.image.getBoundingClientRect();
        const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
        picking = false;
        send("use", `${pathOf(current())}\n${x.toFixed(5)},${y.toFixed(5)}`);
        viewer.dialog.close();
    }

    let count = 0; // of what was sent, so that the same is a change again

    function send(bridge, text) {
        const input = document.querySelector(`#elemental_${bridge} textarea, #elemental_${bridge} input`);
        if (!input) return;
        count += 1;
        input.value = `${text}\n${count}`;
        input.dispatchEvent(new Event("input", {bubbles: true}));
    }

    function pin(item) {
        kept.pinned = isPinned(item) ? null : item;
        if (kept.pinned && !mode) mode = "slider";
        flipped = false;
        writeKept();
        drawStrip();
    }

    function compareBy(wanted) {
        mode = comparing() === wanted ? "" : wanted;
        flipped = false;
        if (mode === "slider") setTimeout(() => viewer.slider.focus(), 0);
    }

    function flip() {
        flipped = comparing() !== "flip" || !flipped;
        mode = "flip";
    }

    function download(item) {
        const name = decodeURIComponent(item.src.split("/").pop());
        make("a", "", {href: item.src, download: item.src.startsWith("data:") ? "change.gif" : name}).click();
    }

    function fullScreen() {
        if (document.fullscreenElement) document.exitFullscreen();
        else viewer.frame.requestFullscreen().catch(() => {}); // the browser may not have it, or not allow it
    }

    /* ---- the dialog ---- */

    function build() {
        const parts = {
            dialog: make("dialog", "", {id: "elemental_viewer"}),
            frame: make("div", "frame"),
            caption: make("p", "caption"),
            buttons: make("div", "buttons"),
            stage: make("div", "stage", {tabIndex: 0}),
            image: make("img", "", {draggable: false}),
            over: make("div", "over"), // the pinned image, cut off at the slider
            pinned: make("img", "", {draggable: false}),
            canvas: make("canvas", ""),
            divider: make("div", "divider"),
            slider: make("input", "slider", {type: "range", min: 0, max: 100, step: 0.5}),
            tools: make("div", "tools"), // as high whatever is in it, so that the image stays where it is
            legend: make("div", "legend"),
            strip: make("div", "row"),
        };
        for (const [step, label, sign] of [[-1, "Previous image", "‹"], [1, "Next image", "›"]]) {
            const button = make("button", step < 0 ? "previous" : "next", {type: "button", textContent: sign, title: label});
            button.setAttribute("aria-label", label);
            onPressed(button, () => move(step));
            parts.stage.append(button);
        }
        parts.dialog.setAttribute("aria-label", "Image");
        parts.stage.setAttribute("role", "group");
        parts.caption.setAttribute("aria-live", "polite");
        parts.slider.setAttribute("aria-label", "Where the pinned image ends, in percent");
        parts.over.append(parts.pinned);
        parts.stage.prepend(parts.image, parts.over, parts.canvas, parts.divider);
        parts.buttons.append(...actions.map(actionButton));
        parts.tools.append(parts.slider, parts.legend);
        parts.frame.append(parts.buttons, parts.stage, parts.tools, parts.caption, parts.strip);
        parts.dialog.append(parts.frame);
        document.body.append(parts.dialog);
        return parts;
    }

    function actionButton(action) {
        const key = action.named || action.key.toUpperCase();
        const button = make("button", "", {type: "button", textContent: action.label});
        const name = NAMES[action.label];
        if (!name) button.append(make("kbd", "", {textContent: key, ariaHidden: "true"}));
        button.title = `${name || action.label} (${key})`;
        button.setAttribute("aria-keyshortcuts", key);
        if (name) button.setAttribute("aria-label", name);
        onPressed(button, () => act(action));
        return button;
    }

    /* After a click by mouse, the keys are those of the image again. */
    function onPressed(button, does) {
        button.addEventListener("click", (event) => {
            if (event.detail) viewer.stage.focus({preventScroll: true});
            does();
        });
    }

    function listen() {
        const {dialog, image, pinned, stage, slider} = viewer;
        dialog.addEventListener("keydown", onKey);
        for (const type of ["keyup", "keypress"]) dialog.addEventListener(type, (event) => event.stopPropagation());
        dialog.addEventListener("close", onClose);
        dialog.addEventListener("fullscreenchange", draw);
        image.addEventListener("load", draw);
        pinned.addEventListener("load", draw);
        stage.addEventListener("wheel", onWheel, {passive: false});
        stage.addEventListener("dblclick", onDoubleClick);
        for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"]) {
            stage.addEventListener(type, onPointer);
        }
        slider.addEventListener("input", () => {
            split = slider.value / 100;
            place();
        });
        new ResizeObserver(() => dialog.open && place()).observe(stage);
    }

    function open(image, list = null) {
        if (!viewer || !viewer.dialog.isConnected) {
            actions = [...SENT, ...sendingActions(), ...PLAIN];
            viewer = build();
            listen();
        }
        if (!list) opener = image.closest("button") || image;
        ofHistory = Boolean(list);
        items = list || allItems();
        const found = items.findIndex((item) => item.src === image.src);
        zoom = 1;
        viewer.dialog.showModal();
        scrolls = page.overflow;
        page.overflow = "hidden";
        viewer.stage.focus();
        show(Math.max(0, found));
    }

    /* Back to the image that was seen last, wherever it is shown now. */
    async function onClose() {
        page.overflow = scrolls;
        picking = false;
        picks = null;
        unpin();
        if (document.fullscreenElement) await document.exitFullscreen();
        const images = Array.from(root.querySelectorAll(`${SHOWN}, ${STRIP} img`));
        const last = images.find((image) => current() && itemOf(image).src === current().src);
        const target = ofHistory ? entryOf(current()) || opener : (last && (last.closest("button") || last)) || opener;
        if (target && target.isConnected) target.focus();
        drawStrip();
    }

    function move(step) {
        show((index + step + items.length) % items.length);
    }

    function show(next) {
        index = next;
        const {src} = current();
        begins = zoom === 1 || zoom === begun; // what somebody has chosen stays, to compare images by
        if (begins) [zoom, shift, begun] = [1, [0, 0], 0];
        if (viewer.image.src !== src) viewer.image.src = src;
        if (ofHistory) {
            draw(); // the strip is for what was made since, and the history is still there
            return;
        }
        chosen = src;
        drawSending();
        if (!isIn(shownImages().map(itemOf), current())) keep(current());
        else if (!kept.shown.some((item) => item.src === src && !item.cell)) keep(current()); // it was looked at
        writeKept();
        draw();
    }

    /* ---- drawing ---- */

    function draw() {
        if (!viewer || !viewer.dialog.open || !current()) return;
        const now = comparing();
        const {dialog, stage, image, pinned, legend} = viewer;
        dialog.dataset.mode = now;
        if (kept.pinned && pinned.src !== kept.pinned.src) pinned.src = kept.pinned.src;
        stage.setAttribute("aria-label", current().caption);
        image.alt = current().caption;
        pinned.alt = kept.pinned ? kept.pinned.caption : "";
        drawButtons();
        viewer.stage.classList.toggle("picking", picking && isGrid());
        drawCaption(now);
        drawRow();
        legend.hidden = now !== "difference";
        if (now === "difference") drawDifference();
        if (begins && !now) beginLong();
        place();
        holdFocus();
    }

    /* What can no longer be used has no focus, and without one the keys would go nowhere. */
    function holdFocus() {
        const active = document.activeElement;
        const lost = !viewer.dialog.contains(active) || active === viewer.dialog;
        if (lost || active.disabled || active.offsetParent === null) viewer.stage.focus({preventScroll: true});
    }

    function drawButtons() {
        Array.from(viewer.buttons.children).forEach((button, at) => {
            const action = actions[at];
            button.disabled = Boolean(action.needs && !action.needs()); // it needs a pinned image, and another
            if (action.on) button.setAttribute("aria-pressed", String(action.on()));
            if (action.says) button.firstChild.textContent = action.says();
            button.hidden = Boolean(action.only && !action.only());
        });
        for (const button of viewer.stage.querySelectorAll("button")) button.hidden = items.length < 2;
    }

    function drawCaption(now) {
        const pinned = kept.pinned && `Pinned: ${kept.pinned.caption}`;
        const lines = {
            "": [picking && isGrid() ? "Click the cell to use." : current().caption],
            slider: [`Left, ${pinned}`, `Right: ${current().caption}`],
            flip: [flipped ? pinned : current().caption],
            difference: [pinned, `Against: ${current().caption}`],
        }[now];
        const said = [...lines, ""].map((line) => make("span", "", {textContent: line}));
        said[said.length - 1].className = "figures";
        const text = lines.join("\n");
        if (viewer.caption.dataset.said !== text) viewer.caption.replaceChildren(...said);
        viewer.caption.dataset.said = text;
    }

    function drawRow() {
        const said = JSON.stringify([items, kept.pinned]);
        const {strip} = viewer;
        if (strip.dataset.said !== said) {
            strip.dataset.said = said;
            strip.replaceChildren(...items.map(thumbnail));
            Array.from(strip.children).forEach((button, at) => onPressed(button, () => show(at)));
        }
        strip.hidden = items.length < 2;
        Array.from(strip.children).forEach((button, at) => {
            if (at === index) button.setAttribute("aria-current", "true");
            else button.removeAttribute("aria-current");
            button.dataset.badge = badgeOf(items[at]);
        });
        if (strip.children[index]) strip.children[index].scrollIntoView({block: "nearest", inline: "nearest"});
    }

    const naturalSize = (image) => [image.naturalWidth || image.width || 1, image.naturalHeight || image.height || 1];

    function scaleOfWhole(image = viewer.image) {
        const [width, height] = naturalSize(image);
        return Math.min(viewer.stage.clientWidth / width, viewer.stage.clientHeight / height) * devicePixelRatio;
    }

    /* Each image lies in the middle of the window, shifted, so that two of the same shape cover each other. */
    function place() {
        const {stage, image, pinned, canvas, over, divider, slider} = viewer;
        clamp();
        for (const layer of [image, pinned, canvas]) {
            const [width, height] = naturalSize(layer);
            const scale = (scaleOfWhole(layer) / devicePixelRatio) * zoom;
            layer.style.width = `${width * scale}px`;
            layer.style.height = `${height * scale}px`;
            layer.style.transform = `translate(calc(-50% + ${shift[0]}px), calc(-50% + ${shift[1]}px))`;
            layer.classList.toggle("sharp", scale * devicePixelRatio >= SHARP);
        }
        const at = Math.max(0, Math.min(stage.clientWidth, splitPlace()));
        const now = comparing();
        over.style.clipPath = now === "slider" ? `inset(0 ${stage.clientWidth - at}px 0 0)` : "none";
        over.hidden = !(now === "slider" || (now === "flip" && flipped));
        canvas.hidden = now !== "difference";
        divider.style.left = `${at}px`;
        if (document.activeElement !== slider || Math.abs(slider.value - 100 * split) > 1) slider.value = 100 * split;
        sayFigures();
    }

    const shownWidth = () => parseFloat(viewer.image.style.width) || 1;
    const imageLeft = () => viewer.stage.clientWidth / 2 + shift[0] - shownWidth() / 2;
    const splitPlace = () => imageLeft() + split * shownWidth();

    function sayFigures() {
        const [width, height] = naturalSize(viewer.image);
        const percent = `${Math.round(100 * scaleOfWhole() * zoom)} %`;
        const said = `${index + 1} of ${items.length} · ${width} x ${height} · ${percent}`;
        const place = viewer.caption.querySelector(".figures");
        if (place && place.textContent !== said) place.textContent = said;
    }

    function clamp() {
        const {stage, image} = viewer;
        const size = naturalSize(image).map((side) => (side * scaleOfWhole() * zoom) / devicePixelRatio);
        const room = [stage.clientWidth, stage.clientHeight];
        shift = shift.map((value, at) => {
            const most = Math.max(0, (size[at] - room[at]) / 2);
            return Math.max(-most, Math.min(most, value));
        });
    }

    /* ---- zoom and pan ---- */

    /* The sheet of a check is too long to be judged as a whole: it begins at its top, as large as there is room across. */
    function beginLong() {
        const {image, stage} = viewer;
        if (!image.complete || !image.naturalWidth) return;
        begins = false;
        const across = Math.max(stage.clientWidth / image.naturalWidth, stage.clientHeight / image.naturalHeight);
        const wanted = Math.min(1, across * devicePixelRatio) / scaleOfWhole();
        if (!isDrawn(current()) || wanted < LONG) return;
        zoom = begun = wanted;
        shift = [Infinity, Infinity]; // as far as it goes
    }

    const leastZoom = () => Math.min(1, 1 / scaleOfWhole());
    const isZoomed = () => zoom > 1.001;

    /* What is at a point of the window, from its middle, stays there. */
    function zoomTo(wanted, [x, y] = [0, 0]) {
        const next = Math.max(leastZoom(), Math.min(Math.max(1, MOST_ZOOM / scaleOfWhole()), wanted));
        shift = [x - ((x - shift[0]) * next) / zoom, y - ((y - shift[1]) * next) / zoom];
        zoom = next;
        place();
    }

    function fromMiddle(event) {
        const box = viewer.stage.getBoundingClientRect();
        return [event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2];
    }

    function onWheel(event) {
        event.preventDefault();
        const lines = event.deltaMode === 1 ? 16 : 1;
        zoomTo(zoom * Math.exp(-event.deltaY * lines * 0.0015), fromMiddle(event));
    }

    function onDoubleClick(event) {
        if (event.target.closest("button")) return;
        const real = 1 / scaleOfWhole(); // of an image that is shown larger than it is, the double
        zoomTo(Math.abs(zoom - 1) > 0.001 ? 1 : real > 1.001 ? real : 2, fromMiddle(event));
    }

    const fingers = new Map();
    let sliding = false;

    function onPointer(event) {
        if (event.target.closest("button")) return;
        if (event.type === "pointerdown") {
            if (event.button !== 0) return;
            if (picking) {
                event.preventDefault();
                useCell(event);
                return;
            }
            const near = Math.abs(event.clientX - viewer.stage.getBoundingClientRect().left - splitPlace()) < 20;
            sliding = comparing() === "slider" && (near || !isZoomed());
            viewer.stage.setPointerCapture(event.pointerId);
            event.preventDefault(); // the browser would drag the image away
            viewer.stage.focus({preventScroll: true});
        } else if (event.type !== "pointermove") {
            fingers.delete(event.pointerId);
            return;
        }
        const before = fingers.get(event.pointerId);
        if (event.type === "pointermove" && !before) return;
        const distance = spread();
        fingers.set(event.pointerId, [event.clientX, event.clientY]);
        if (fingers.size === 2) zoomTo((zoom * spread()) / (distance || spread()), fromMiddle(event));
        else if (sliding) slideTo(event.clientX - viewer.stage.getBoundingClientRect().left);
        else if (before) panBy(event.clientX - before[0], event.clientY - before[1]);
    }

    function spread() {
        const [one, other] = Array.from(fingers.values());
        return other ? Math.hypot(one[0] - other[0], one[1] - other[1]) : 0;
    }

    function panBy(x, y) {
        shift = [shift[0] + x, shift[1] + y];
        place();
    }

    function slideTo(x) {
        split = Math.max(0, Math.min(1, (x - imageLeft()) / shownWidth()));
        place();
    }

    /* ---- the difference of two images ---- */

    let differs = ""; // which two the canvas shows

    function pixels(image, width, height) {
        const canvas = make("canvas", "", {width, height});
        const context = canvas.getContext("2d", {willReadFrequently: true});
        context.drawImage(image, 0, 0, width, height);
        return context.getImageData(0, 0, width, height).data;
    }

    function drawDifference() {
        const {image, pinned, canvas, legend} = viewer;
        if (!image.complete || !pinned.complete || !image.naturalWidth || !pinned.naturalWidth) return;
        const said = [image.src, pinned.src, full].join(" ");
        if (differs === said) return;
        differs = said;
        const [width, height] = naturalSize(image);
        const scale = Math.min(1, MOST_SIDE / Math.max(width, height));
        const size = [Math.round(width * scale), Math.round(height * scale)];
        const found = compare(pixels(image, ...size), pixels(pinned, ...size));
        const most = full || FULL.filter((value) => value >= found.most).pop() || 255;
        Object.assign(canvas, {width: size[0], height: size[1]});
        canvas.getContext("2d").putImageData(colour(found.largest, most, size), 0, 0);
        legend.replaceChildren(...drawLegend(found, most, naturalSize(pinned).join() !== [width, height].join()));
    }

    /* For each pixel the largest difference of its three channels; figures as the table of a check has them. */
    function compare(one, other) {
        const largest = new Uint8Array(one.length / 4);
        let sum = 0;
        let changed = 0;
        let most = 0;
        for (let at = 0; at < one.length; at += 4) {
            for (let channel = at; channel < at + 3; channel++) {
                const by = Math.abs(one[channel] - other[channel]);
                sum += by;
                changed += by > THRESHOLD;
                if (by > largest[at >> 2]) largest[at >> 2] = by;
            }
            if (largest[at >> 2] > most) most = largest[at >> 2];
        }
        const values = 3 * largest.length;
        return {largest, most, mean: sum / values, share: (100 * changed) / values};
    }

    function colour(largest, most, size) {
        const colours = Array.from({length: 256}, (_, value) => colourAt(Math.min(1, value / most)));
        const drawn = new ImageData(...size);
        largest.forEach((value, at) => drawn.data.set([...colours[value], 255], 4 * at));
        return drawn;
    }

    function colourAt(part) {
        const place = part * (COLOURS.length - 1);
        const low = Math.min(COLOURS.length - 2, Math.floor(place));
        return COLOURS[low].map((value, at) => Math.round(value + (COLOURS[low + 1][at] - value) * (place - low)));
    }

    function drawLegend({most, mean, share}, top, resized) {
        const figures = make("span", "", {
            textContent:
                `changed ${share.toFixed(1)} %, mean ${mean.toFixed(2)}, largest ${most} of 255` +
                (resized ? "; of two sizes, so the pinned image was fitted to the other" : ""),
        });
        const bar = make("span", "bar");
        bar.style.background = `linear-gradient(to right, ${COLOURS.map((value) => `rgb(${value.join()})`).join()})`;
        const label = make("label", "", {textContent: "Full colour from a difference of "});
        const select = make("select", "");
        for (const value of FULL) select.append(make("option", "", {value, textContent: value, selected: value === top}));
        select.addEventListener("change", () => {
            full = Number(select.value);
            draw();
            viewer.legend.querySelector("select").focus();
        });
        label.append(select);
        const scale = make("span", "scale");
        scale.append(make("span", "", {textContent: "equal"}), bar, make("span", "", {textContent: top < 255 ? `${top} or more` : "255"}));
        return [scale, label, figures];
    }

    /* ---- keys ---- */

    const ARROWS = {ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};
    const KEYS = {
        "=": () => zoomTo(zoom * STEP), // where + is on many keyboards, without Shift
        PageUp: () => move(-1),
        PageDown: () => move(1),
        Home: () => show(0),
        End: () => show(items.length - 1),
    };

    /* The page behind gets no key: the host's own would press buttons there. */
    function onKey(event) {
        event.stopPropagation();
        const {target, key} = event;
        if (key === "Escape" && document.fullscreenElement) {
            event.preventDefault(); // first back to the window, where the browser does not do so itself
            fullScreen();
        }
        if (event.ctrlKey || event.metaKey || event.altKey || key === "Escape") return; // the dialog closes on Escape
        const arrow = ARROWS[key];
        const inSlider = target === viewer.slider && arrow;
        if (inSlider || target.tagName === "SELECT" || (target.tagName === "BUTTON" && key === " ")) return;
        const action = actions.find((other) => other.key === key.toLowerCase());
        if (!arrow && !KEYS[key] && !action) return;
        event.preventDefault();
        if (action) act(action);
        else if (!arrow) KEYS[key]();
        else if (isZoomed()) panBy(PAN * arrow[0], PAN * arrow[1]);
        else move(key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1);
    }

    /* ---- the images of the history ---- */

    let asked = null; // the small image that was clicked
    let answered = ""; // the last answer that was seen

    const entryOf = (item) => item && item.entry && root.querySelector(`[data-show="${item.entry}"]`);

    function onShow(event) {
        const button = event.target.closest("[data-show]");
        if (!button) return;
        asked = button;
        send("show", button.dataset.show);
    }

    /* The answer and the gallery with its images may come one after the other. */
    function showHistory() {
        const mark = root.querySelector("#elemental_shown [data-number]");
        if (!mark || mark.dataset.number === answered || !asked) return;
        const entries = JSON.parse(mark.dataset.entries);
        const images = Array.from(root.querySelectorAll("#elemental_shown_images img"));
        if (images.length !== entries.length || images[0].alt !== mark.dataset.first) return;
        answered = mark.dataset.number;
        const list = images.map((image, at) => ({...itemOf(image), entry: entries[at]}));
        if (kept.pinned && !isIn(list, kept.pinned)) list.push(kept.pinned);
        opener = asked;
        asked = null;
        open(images[entries.indexOf(mark.dataset.entry)], list);
    }

    /* ---- the images of a search: each beside the best so far or the goal, which is pinned as long as they are open ---- */

    function onCompare({detail}) {
        const asker = detail.opener;
        picks = detail.picks;
        if (detail.pinned) [before, kept.pinned, mode] = [{item: kept.pinned, mode}, detail.pinned, "slider"];
        opener = asker;
        open(detail.items[detail.index], detail.items);
    }

    function unpin() {
        if (before) [kept.pinned, mode, before] = [before.item, before.mode, null];
        writeKept();
    }

    /* ---- the results ---- */

    /* At the root, before the gallery of the page hears of it: neither its own preview nor the host's opens, too. */
    function onClick(event) {
        const place = event.target.closest(`${SHOWN}, ${STRIP} img, ${STRIP} button, .thumbnail-item`);
        const image = place && (place.tagName === "IMG" ? place : place.querySelector("img"));
        if (!image || !place.closest("#elemental_results")) return;
        event.preventDefault();
        event.stopPropagation();
        open(image);
    }

    function onResultsKey(event) {
        if (event.target.matches("#elemental_gif_view img") && (event.key === "Enter" || event.key === " ")) {
            event.preventDefault();
            open(event.target);
        }
    }

    let pressed = 0; // when a button was, here and not on another page
    let job = "";

    /* In a narrow window, the results stand below the form: they come into view when somebody has begun a job here. */
    function noteJob() {
        const message = root.querySelector("#elemental_progress .elemental-message");
        const now = message ? message.dataset.job : "";
        if (now !== job && Date.now() - pressed < BEGINS_MS) {
            const results = byId("elemental_results");
            if (matchMedia(NARROW).matches) results.scrollIntoView({block: "start"});
            else results.scrollTop = 0; // a column of its own
        }
        job = now;
    }

    function onPress(event) {
        if (event.target.closest(`${STRIP} .elemental-clear`)) clearStrip();
        const ofPanel = event.target.closest("#elemental_controls button");
        if (ofPanel && !ofPanel.closest("#elemental_panel_search")) pressed = Date.now(); // whose images stand in the panel
    }

    function start() {
        readKept();
        root.addEventListener("click", onClick, true);
        root.addEventListener("click", onPress);
        root.addEventListener("click", onSend);
        root.addEventListener("click", onShow);
        root.addEventListener("elemental-compare", onCompare);
        root.addEventListener("keydown", onResultsKey);
        let waiting = false;
        new MutationObserver(() => {
            if (waiting) return;
            waiting = true;
            requestAnimationFrame(() => {
                waiting = false;
                noteShown();
                noteJob();
            });
        }).observe(byId("elemental_results"), {childList: true, subtree: true, attributeFilter: ["src"]});
        new MutationObserver(() => {
            passOn();
            showHistory();
        }).observe(byId("elemental_bridges"), {childList: true, subtree: true, attributeFilter: ["src"]});
        noteShown();
    }

    /* The host builds its page in its own time, and builds it anew on "Reload UI". */
    function findRoot() {
        if (root && root.isConnected && byId("elemental_results")) return;
        const tab = byId(ROOT);
        if (tab && tab.querySelector(STRIP)) {
            root = tab;
            start();
        }
    }

    new MutationObserver(findRoot).observe(document, {childList: true, subtree: true});
    findRoot();
})();
