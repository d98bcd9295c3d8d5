"use strict";
// Without this file the page is whole, though it does not renew itself and tells times in UTC.

(() => {
  const language = document.documentElement.lang;
  const format = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "medium" });

  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      time.title = time.textContent;
      time.textContent = format.format(new Date(time.dateTime));
    }
  };

  // Keeps the pictures that are there, so that nothing flickers, and where the keyboard is.
  const replace = (section, html) => {
    const focused = section.contains(document.activeElement) ? document.activeElement.id : "";
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    localTimes(fresh.content);
    const pictures = new Map([...section.querySelectorAll("img")].map((image) => [image.getAttribute("src"), image]));
    for (const image of fresh.content.querySelectorAll("img")) {
      const before = pictures.get(image.getAttribute("src"));
      if (before) image.replaceWith(before);
    }
    section.replaceChildren(fresh.content);
    if (focused) document.getElementById(focused)?.focus();
  };

  const follow = (overview) => {
    const lost = document.getElementById("lost");
    let source = null;
    let retry = 0;
    const close = () => {
      clearTimeout(retry);
      source?.close();
      source = null;
    };
    const open = () => {
      close();
      if (document.hidden) return;
      source = new EventSource(overview.dataset.events);
      source.onopen = () => { lost.hidden = true; };
      source.onmessage = (event) => {
        for (const [name, html] of Object.entries(JSON.parse(event.data))) {
          const section = document.getElementById(name);
          if (section) replace(section, html);
        }
      };
      source.onerror = () => {
        if (lost.hidden) {
          lost.textContent = document.body.dataset.lost.replace("{time}", format.format(new Date()));
          lost.hidden = false;
        }
        close();
        retry = setTimeout(open, 3000);
      };
    };
    document.addEventListener("visibilitychange", open);
    addEventListener("pagehide", close);
    open();
  };

  const overview = document.querySelector("[data-events]");

  // A click on a label stays on the overview, which hears of it like of anything else.
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!overview || !form.matches(".labels")) return;
    event.preventDefault();
    const body = new URLSearchParams(new FormData(form, event.submitter));
    let isKept = false;
    try {
      isKept = (await fetch(form.action, { method: "POST", body, headers: { accept: "application/json" } })).ok;
    } catch { /* nobody answers */ }
    document.getElementById("unsaid").hidden = isKept;
  });

  // What each place of the slider means has come with the page: nothing is asked while it moves.
  const slide = (whatIf) => {
    const steps = JSON.parse(whatIf.dataset.steps);
    const [slider, value] = ["slider", "value"].map((id) => document.getElementById(id));
    slider.hidden = false;
    slider.setAttribute("aria-valuetext", value.value);
    slider.addEventListener("input", () => {
      const step = steps[slider.value];
      value.value = step.value;
      slider.setAttribute("aria-valuetext", step.value);
      document.getElementById("asked").setAttribute("d", `M${slider.value} 0v1`);
      for (const cell of whatIf.querySelectorAll("[data-cell]")) cell.textContent = step.cells[cell.dataset.cell];
    });
  };

  // The server takes times in UTC; people see and give their own, as in the list.
  const askLocally = (input) => {
    const [asked, minutes] = [document.createElement("input"), "2026-11-22T14:00".length];
    [asked.type, asked.name] = ["hidden", input.name];
    input.removeAttribute("name");
    input.form.append(asked);
    if (input.value) {
      const when = new Date(`${input.value}Z`);
      input.value = new Date(when - when.getTimezoneOffset() * 60000).toISOString().slice(0, minutes);
    }
    input.form.addEventListener("submit", () => {
      asked.value = input.value && new Date(input.value).toISOString().slice(0, minutes);
    });
  };

  for (const unit of document.querySelectorAll(".utc")) unit.remove();
  document.querySelectorAll("input[type=datetime-local]").forEach(askLocally);
  localTimes(document);
  if (overview) follow(overview);
  const whatIf = document.getElementById("whatif");
  if (whatIf) slide(whatIf);
})();
