
// Hovering, focusing or tapping a point shows its figures beside it. Without this the page is complete: points
// have a <title>, and every figure is in a table too.
const tip = document.getElementById("tip");

function show(event) {
  const point = event.target.closest?.("[data-tip]");
  if (!point) return hide();
  tip.textContent = point.dataset.tip;
  tip.hidden = false;
  const box = point.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  const left = Math.max(8, Math.min(room, box.left + box.width / 2 - tip.offsetWidth / 2));
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${box.top + window.scrollY - tip.offsetHeight - 8}px`;
}

function hide() {
  tip.hidden = true;
}

for (const title of document.querySelectorAll(".chart title")) title.remove();
document.addEventListener("pointerover", show);
document.addEventListener("focusin", show);
document.addEventListener("focusout", hide);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
