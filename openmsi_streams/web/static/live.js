"use strict";
// Shows times in the viewer's zone, and brings the part of the page marked data-live up to date by asking the server
// for the same page again. Only what differs is touched, so that focus, selection and scroll position stay.
(() => {
  const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const today = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

  function localize(root) {
    const day = new Date().toDateString();
    for (const time of root.querySelectorAll("time[datetime]")) {
      const when = new Date(time.getAttribute("datetime"));
      if (isNaN(when)) continue;
      time.textContent = (when.toDateString() === day ? today : zone).format(when);
      time.setAttribute("title", when.toString());
    }
  }

  const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("data-key") : null);

  function morph(old, fresh) {
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    const keyed = new Map();
    for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const same = keyOf(child) ? keyed.get(keyOf(child)) : null;
      if (same && same.nodeName === child.nodeName) {
        if (same !== at) old.insertBefore(same, at); else at = at.nextSibling;
        morph(same, child);
      } else if (at && !keyOf(child) && !keyOf(at) && at.nodeName === child.nodeName) {
        const next = at.nextSibling;
        if (child.nodeType === 1) morph(at, child);
        else if (at.nodeValue !== child.nodeValue) at.nodeValue = child.nodeValue;
        at = next;
      } else {
        old.insertBefore(document.adoptNode(child), at);
      }
    }
    while (at) { const next = at.nextSibling; old.removeChild(at); at = next; }
  }

  localize(document);
  const live = document.querySelector("[data-live]");
  if (!live) return;
  const announce = document.getElementById("announce");
  const summary = () => [...document.querySelectorAll(".counts > div")].map((part) =>
    `${part.querySelector("b").textContent} ${part.querySelector("dt").textContent}`).join(", ")
    || (document.getElementById("state") || {}).textContent || "";
  let said = summary();
  let wait = 0;

  async function refresh() {
    let pause = Number(live.getAttribute("data-live")) || 1000;
    if (!document.hidden) {
      try {
        const address = location.pathname + location.search;
        const answer = await fetch(address, { headers: { Accept: "text/html" }, credentials: "same-origin" });
        if (answer.redirected) { location.reload(); return; }
        if (!answer.ok) throw new Error(String(answer.status));
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-live]");
        if (fresh) {
          localize(fresh);
          morph(live, fresh);
          live.classList.remove("gone");
        }
        wait = 0;
        const now = summary().replace(/\s+/g, " ").trim();
        if (now !== said) { said = now; announce.textContent = now; }
      } catch {
        // The worker is down or restarts: what is shown is old, and looks it.
        live.classList.add("gone");
        wait = Math.min(30000, (wait || 1000) * 2);
        pause = wait;
      }
    }
    setTimeout(refresh, pause);
  }
  setTimeout(refresh, Number(live.getAttribute("data-live")) || 1000);
})();
