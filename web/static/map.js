// The map of the taxonomy: relatives light up under pointer and focus, the part that is shown can be moved.
// The drawing, its filters and its links work without this file.

const atlas = document.querySelector(".map .atlas");
const caption = document.querySelector(".map .caption");
const said = caption.innerHTML;
const nodes = new Map([...atlas.querySelectorAll(".node")].map((node) => [node.dataset.slug, node]));
const edges = [...atlas.querySelectorAll(".edge")];
const lit = [...atlas.querySelectorAll(".lit")];
const busy = atlas.classList.contains("busy");

const light = (node) => {
  for (const each of atlas.querySelectorAll(".lit")) each.classList.remove("lit");
  const kin = node.dataset.kin.split(" ").filter(Boolean);
  for (const slug of [node.dataset.slug, ...kin]) nodes.get(slug).classList.add("lit");
  for (const edge of edges) {
    if ([edge.dataset.from, edge.dataset.to].includes(node.dataset.slug)) edge.classList.add("lit");
  }
  atlas.classList.add("busy");
  const names = kin.map((slug) => nodes.get(slug).querySelector("text").textContent);
  caption.textContent = node.querySelector("title").textContent + (names.length ? ` Tied to ${names.join(", ")}.` : "");
};
const rest = () => {
  for (const each of atlas.querySelectorAll(".lit")) each.classList.remove("lit");
  for (const each of lit) each.classList.add("lit");
  atlas.classList.toggle("busy", busy);
  caption.innerHTML = said;
};
for (const [enter, leave] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  atlas.addEventListener(enter, (event) => event.target.closest(".node") && light(event.target.closest(".node")));
  atlas.addEventListener(leave, rest);
}

// Where there are filters, the part that is shown is in the address: it can be shared and outlives the next filter.
const whole = atlas.dataset.whole.split(" ").map(Number);
const form = document.querySelector(".filters");
const view = Object.assign(document.createElement("input"), { type: "hidden", name: "view" });
form?.append(view);
let [x, y, width, height] = atlas.getAttribute("viewBox").split(" ").map(Number);

const show = () => {
  width = Math.min(Math.max(width, whole[2] / 8), whole[2] * 1.5);
  height = (width * whole[3]) / whole[2];
  x = Math.min(Math.max(x, whole[0] - width / 2), whole[0] + whole[2] - width / 2);
  y = Math.min(Math.max(y, whole[1] - height / 2), whole[1] + whole[3] - height / 2);
  atlas.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
  if (!form) return;
  const address = new URL(location);
  const part = [x, y, width, height].map(Math.round).join(",");
  const all = part === whole.map(Math.round).join(",");
  view.value = all ? "" : part;
  if (all) address.searchParams.delete("view");
  else address.searchParams.set("view", part);
  address.searchParams.delete("zoom");
  history.replaceState(null, "", address);
};
const zoom = (factor, at = [0.5, 0.5]) => {
  const [before, above] = [width, height];
  width /= factor;
  height /= factor;
  x += (before - width) * at[0];
  y += (above - height) * at[1];
  show();
};
const move = (right, down) => {
  x += right * width;
  y += down * height;
  show();
};
const reset = () => {
  [x, y, width, height] = whole;
  show();
};

const buttons = document.createElement("div");
buttons.className = "zoom";
for (const [text, label, act] of [
  ["+", "Zoom in", () => zoom(1.4)],
  ["−", "Zoom out", () => zoom(1 / 1.4)],
  ["↺", "Show the whole map", reset],
]) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  buttons.append(button);
}
atlas.closest(".map").prepend(buttons);

// Where the map is wider than its window, begin in its middle.
const frame = atlas.parentElement;
frame.scrollLeft = (frame.scrollWidth - frame.clientWidth) / 2;

const keys = {
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: reset,
  ArrowLeft: () => move(-0.1, 0), ArrowRight: () => move(0.1, 0), ArrowUp: () => move(0, -0.1), ArrowDown: () => move(0, 0.1),
};
atlas.parentElement.addEventListener("keydown", (event) => {
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  keys[event.key]();
});
atlas.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  const box = atlas.getBoundingClientRect();
  const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  zoom(Math.exp(-event.deltaY / 300), at);
}, { passive: false });

let held = null;
let dragged = false;
atlas.addEventListener("pointerdown", (event) => {
  if (event.button === 0 && event.pointerType === "mouse") held = [event.clientX, event.clientY];
  dragged = false;
});
addEventListener("pointermove", (event) => {
  if (!held) return;
  const scale = width / atlas.getBoundingClientRect().width;
  const [right, down] = [event.clientX - held[0], event.clientY - held[1]];
  if (!dragged && Math.hypot(right, down) < 5) return;
  dragged = true;
  x -= right * scale;
  y -= down * scale;
  held = [event.clientX, event.clientY];
  show();
});
addEventListener("pointerup", () => (held = null));
atlas.addEventListener("click", (event) => dragged && event.preventDefault(), true);
atlas.addEventListener("dragstart", (event) => event.preventDefault());

// A filter acts at once; the button stays for those who prefer it.
form?.addEventListener("change", (event) => {
  if (event.target.name === "zoom") view.value = "";
  form.requestSubmit();
});
show();
