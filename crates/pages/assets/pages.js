// Everything here makes pages nicer; none needs it.
"use strict";

// Times in the zone of whoever looks; the exact UTC stays in the title.
for (const time of document.querySelectorAll("time[data-exact]")) {
  const at = new Date(time.dateTime);
  if (!Number.isNaN(at.getTime())) {
    time.textContent = at.toLocaleString(undefined, {
      dateStyle: "medium",
      timeStyle: "medium",
    });
  }
}

// What is worth copying gets a button for it.
function copier(of) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(of.textContent.trimEnd());
      button.textContent = "copied";
    } catch {
      // Without the right to the clipboard, what is selected can still be copied by hand.
      getSelection().selectAllChildren(of);
      button.textContent = "selected";
    }
    setTimeout(() => {
      button.textContent = "copy";
    }, 1500);
  });
  return button;
}
if (window.isSecureContext) {
  for (const text of document.querySelectorAll("[data-copy]")) {
    text.after(copier(text));
  }
  for (const block of document.querySelectorAll("[data-copy-block]")) {
    const box = document.createElement("div");
    box.className = "copied";
    block.before(box);
    box.append(block, copier(block));
  }
}

// What cannot be undone is asked once.
for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}

// A link that lets somebody in goes on by itself.
document.querySelector("form[data-go]")?.requestSubmit();

// What may change is looked at while somebody looks. It is shown by itself only where that moves nothing under a hand:
// nobody has scrolled, selected or begun to press something.
const waiting = document.querySelector("[data-glance]");
if (waiting) {
  const EVERY = 2000;
  const TOGETHER = 900;
  let looks = 0;
  const idle = () =>
    scrollY === 0 &&
    getSelection().isCollapsed &&
    [document.body, null].includes(document.activeElement);
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(waiting.dataset.glance, { headers: { accept: "text/plain" } });
        if (!answer.ok) return;
        if ((await answer.text()) !== waiting.dataset.seen) {
          if (idle()) location.replace(waiting.querySelector("a").href);
          else waiting.hidden = false;
          return;
        }
      } catch {
        // The server may be back the next time.
      }
      looks += 1;
    }
    if (looks < TOGETHER) setTimeout(look, EVERY);
  };
  setTimeout(look, EVERY);
}

// What came since a list was shown is told of, and never moves what is there.
const news = document.querySelector("[data-news]");
if (news) {
  const EVERY = 5000;
  const TOGETHER = 720;
  const link = news.querySelector("a");
  let looks = 0;
  const look = async () => {
    if (!document.hidden) {
      try {
        const answer = await fetch(news.dataset.news, { headers: { accept: "text/plain" } });
        if (!answer.ok) return;
        const count = await answer.text();
        if (count !== "0" && link.textContent !== `${count} new: show them`) {
          link.textContent = `${count} new: show them`;
          link.href = location.href;
          news.hidden = false;
        }
      } catch {
        // The server may be back the next time.
      }
      looks += 1;
    }
    if (looks < TOGETHER) setTimeout(look, EVERY);
  };
  setTimeout(look, EVERY);
}

// Light, dark, or as the system has it.
const theme = document.querySelector("[data-theme-switch]");
const themes = ["", "light", "dark"];
function read() {
  try {
    return localStorage.getItem("theme") ?? "";
  } catch {
    return "";
  }
}
function apply(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  if (theme) theme.textContent = name ? `Theme: ${name}` : "Theme: system";
}
apply(read());
if (theme) {
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(read()) + 1) % themes.length];
    try {
      localStorage.setItem("theme", next);
    } catch {
      // Then it lasts as long as the page.
    }
    apply(next);
  });
}

// A picture is read here, so that nobody has to write it as text.
for (const place of document.querySelectorAll("[data-file-into]")) {
  const field = document.getElementById(place.dataset.fileInto);
  const input = document.createElement("input");
  input.type = "file";
  input.accept = "image/svg+xml,image/png,image/jpeg,image/gif,image/webp";
  input.setAttribute("aria-label", "Choose a picture");
  // In base 64 it may have 16 KiB.
  const BYTES_MAX = 12000;
  input.addEventListener("change", () => {
    const long = input.files[0]?.size > BYTES_MAX;
    input.setCustomValidity(long ? "The picture has too many bytes: 12,000 at most." : "");
    if (long) {
      input.reportValidity();
      return;
    }
    const reader = new FileReader();
    reader.addEventListener("load", () => {
      field.value = reader.result;
    });
    if (input.files[0]) reader.readAsDataURL(input.files[0]);
  });
  place.hidden = false;
  place.append(input);
}
