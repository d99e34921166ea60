// Search in the rows; the ticked rows as options of the command.
"use strict";

(() => {
  const choice = document.getElementById("choice");
  if (!choice) return;
  const rows = [...document.querySelectorAll(".rows tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const boxes = [...document.querySelectorAll(".rows input")];
  const options = document.getElementById("options");
  const status = document.getElementById("status");
  const search = document.getElementById("search");
  const tell = () => {
    const ids = [...new Set(boxes.filter((box) => box.checked).map((box) => box.value))];
    options.value = ids.length ? `--drop ${ids.join(" ")}` : "";
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = `${shown} of ${rows.length} rows shown, ${ids.length} ticked to leave out`;
  };
  const filter = () => {
    const sought = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows.forEach((row, place) => { row.hidden = !sought.every((word) => texts[place].includes(word)); });
    tell();
  };
  search.addEventListener("input", filter);
  options.addEventListener("focus", () => options.select());
  choice.addEventListener("submit", (event) => event.preventDefault());
  for (const box of boxes) box.addEventListener("change", tell);
  choice.hidden = false;
  tell();
})();
