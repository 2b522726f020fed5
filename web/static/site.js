// Conveniences only: every page works without this file.

const search = document.querySelector("#search");

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search?.focus();
    search?.select();
  }
});

// Empty and unchanged fields stay out of the address, so that it is short enough to share.
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", () => {
    for (const field of form.querySelectorAll("input[name], select[name]")) {
      if (field.value === "" || field.value === field.dataset.default) field.disabled = true;
    }
    setTimeout(() => form.querySelectorAll(":disabled").forEach((field) => (field.disabled = false)));
  });
}

// A link into a closed section opens it.
const open = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
};
addEventListener("hashchange", open);
open();

// With room the filters of a list are shown without their fold; this opens it where a style sheet cannot.
const filters = document.querySelector("details.facets");
if (filters && !CSS.supports("selector(::details-content)")) filters.open = matchMedia("(min-width: 52.01rem)").matches;

// Copy buttons beside code.
if (navigator.clipboard) {
  for (const code of document.querySelectorAll("pre:not(.source) > code")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    code.parentElement.append(button);
  }
}
