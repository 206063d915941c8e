// What the console does in the browser: panels that are in sight are asked for again, times stay relative,
// digests are copied. Without it every page still shows what it showed when it was loaded.
"use strict";

const inSight = new WeakSet();
const askedAt = new WeakMap();
const sight = new IntersectionObserver((changes) => {
    for (const change of changes) {
        change.isIntersecting ? inSight.add(change.target) : inSight.delete(change.target);
    }
});

function watch(root) {
    for (const panel of root.querySelectorAll("[data-live]")) {
        if (!askedAt.has(panel)) askedAt.set(panel, Date.now());
        sight.observe(panel);
    }
}

// A panel that somebody types in, or has unfolded something in, is left alone until they are done.
function isBusy(panel) {
    return panel.contains(document.activeElement) || panel.querySelector("details[open]") !== null;
}

function poll() {
    if (document.hidden) return;
    for (const panel of document.querySelectorAll("[data-live]")) {
        const due = Date.now() - askedAt.get(panel) >= Number(panel.dataset.live) * 1000;
        if (!due || !inSight.has(panel) || isBusy(panel)) continue;
        askedAt.set(panel, Date.now());
        htmx.trigger(panel, "poll");
    }
}

// Signed out, or the site does not answer: what is shown gets old, and says so.
function markStale(panel, isStale) {
    if (panel.matches("[data-live]")) panel.toggleAttribute("data-stale", isStale);
}

const STEPS = [["day", 86400], ["hour", 3600], ["minute", 60]];
const words = new Intl.RelativeTimeFormat("en", {numeric: "always"});

function relative(moment) {
    const seconds = (Date.parse(moment) - Date.now()) / 1000;
    for (const [unit, length] of STEPS) {
        if (Math.abs(seconds) >= length) return words.format(Math.trunc(seconds / length), unit);
    }
    return seconds > 0 ? `in ${Math.round(seconds)} seconds` : "just now";
}

function tellTimes() {
    for (const time of document.querySelectorAll("time[data-relative]")) {
        const told = relative(time.dateTime);
        if (time.textContent !== told) time.textContent = told;
    }
}

async function copy(button) {
    await navigator.clipboard.writeText(button.dataset.copy);
    const before = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = before; }, 1500);
}

document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
});
document.addEventListener("htmx:beforeSwap", (event) => {
    const panel = event.detail.target;
    if (!panel.matches("[data-live]")) return;
    // Any other page, such as the sign-in that a redirect led to, is no panel.
    event.detail.shouldSwap = event.detail.shouldSwap && event.detail.xhr.getResponseHeader("X-Console-Panel") !== null;
    const scrolled = [...panel.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
    const id = panel.id;
    queueMicrotask(() => setTimeout(() => {
        const regions = document.getElementById(id).querySelectorAll(".scroll");
        regions.forEach((region, place) => { region.scrollLeft = scrolled[place] || 0; });
    }));
});
document.addEventListener("htmx:afterSettle", (event) => { watch(event.target.parentElement || document); tellTimes(); });
document.addEventListener("htmx:afterRequest", (event) => {
    const isPanel = event.detail.xhr.getResponseHeader("X-Console-Panel") !== null;
    markStale(event.detail.elt, !(event.detail.successful && isPanel));
});
watch(document);
tellTimes();
setInterval(poll, 1000);
setInterval(tellTimes, 1000);
