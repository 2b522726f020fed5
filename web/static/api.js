// Examples of the API that can be tried where they stand. Without this file they are links.

const LONGEST = 4000;

for (const link of document.querySelectorAll(".operation a.example")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Try it here";
  button.setAttribute("aria-label", `Try it here: ${link.getAttribute("href")}`);
  const shown = document.createElement("pre");
  shown.tabIndex = 0;
  shown.hidden = true;
  shown.setAttribute("aria-label", `Answer of ${link.getAttribute("href")}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    shown.hidden = false;
    shown.textContent = "…";
    try {
      const started = performance.now();
      const answer = await fetch(link.href, { headers: { Accept: "application/json" } });
      const text = await answer.text();
      const took = Math.round(performance.now() - started);
      const plain = answer.headers.get("content-type").includes("json") ? JSON.stringify(JSON.parse(text), null, 1) : text;
      const rest = plain.length - LONGEST;
      const note = rest > 0 ? `\n… and ${rest} more characters` : "";
      shown.textContent = `${answer.status} ${answer.statusText}, ${text.length} characters, ${took} ms\n\n${plain.slice(0, LONGEST)}${note}`;
    } catch (error) {
      shown.textContent = `No answer: ${error.message}`;
    }
    button.disabled = false;
  });
  link.after(" ", button);
  link.closest("p").after(shown);
}
