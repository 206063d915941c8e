// What the console does in the browser: panels that are in sight are asked for again, times stay relative,
// digests are copied. Without it every page still shows what it showed when it was loaded.
"use strict";

const POLL_MILLISECONDS = 3000;
const inSight = new WeakSet();
const sight = new IntersectionObserver((changes) => {
    for (const change of changes) {
        change.isIntersecting ? inSight.add(change.target) : inSight.delete(change.target);
    }
});

function watch(root) {
    for (const panel of root.querySelectorAll("[data-live]")) sight.observe(panel);
}

function poll() {
    if (document.hidden) return;
    for (const panel of document.querySelectorAll("[data-live]")) {
        // A table that somebody has unfolded, or is typing in, is left alone until they are done.
        if (inSight.has(panel) && !panel.contains(document.activeElement)) htmx.trigger(panel, "poll");
    }
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
document.addEventListener("htmx:afterSettle", (event) => { watch(event.target.parentElement || document); tellTimes(); });
document.addEventListener("htmx:responseError", (event) => {
    // Signed out, or the site is restarting: what is shown gets old, and says so.
    event.target.setAttribute("data-stale", "");
});
watch(document);
tellTimes();
setInterval(poll, POLL_MILLISECONDS);
setInterval(tellTimes, 1000);
