// The list of questions: filtered and sorted as numbers, drawn a page at a time, every text as a text node.
"use strict";

(() => {
  /** Say so where a table is wider than its place. */
  const tell = () => {
    for (const hint of document.querySelectorAll(".hint")) {
      const box = hint.nextElementSibling;
      hint.hidden = box.scrollWidth <= box.clientWidth + 1;
    }
  };
  addEventListener("resize", tell);
  tell();
})();

(() => {
  const source = document.getElementById("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  source.remove();
  const { texts, rows, columns, metrics } = data;
  const afters = columns.map((_, c) => c).filter((c) => columns[c].kind !== "before");
  const swatches = document.getElementById("swatches").children;
  const byId = (id) => document.getElementById(id);
  const table = byId("list");
  const controls = { search: "", set: "", run: "", outcome: "", sort: "order", direction: "up", size: byId("size").value };
  let page = 0;
  let shown = [];

  const value = (column, row, metric) => columns[column].values[row * metrics.length + metric];
  const right = (column, row) => {
    const judged = data.entailment === null ? null : value(column, row, data.entailment);
    return judged === null ? null : judged >= 500;
  };
  /** The columns of answers asked for: one run's, or all. */
  const chosen = () => (controls.run === "" ? afters : [Number(controls.run)]);
  /** The columns to show: those, each with what it is compared with, in the order of the page. */
  const visible = () => {
    const wanted = chosen();
    if (!wanted.length) return columns.map((_, c) => c);
    const all = new Set(wanted);
    for (const c of wanted) if (columns[c].before !== null) all.add(columns[c].before);
    return [...all].sort((a, b) => a - b);
  };

  // ------------------------------------------------------------------------------------------------- filter and sort

  let lowered = null;
  const lower = (text) => {
    lowered ??= texts.map((each) => each.toLowerCase());
    return text === null ? "" : lowered[text];
  };
  const words = () => controls.search.toLowerCase().split(/\s+/).filter(Boolean);

  function select() {
    const sought = words();
    const place = visible();
    const compared = chosen().filter((c) => columns[c].before !== null);
    const found = [];
    for (let row = 0; row < rows.length; row++) {
      const [set, ...own] = rows[row];
      if (controls.set !== "" && set !== Number(controls.set)) continue;
      if (controls.outcome) {
        const [before, after] = [...controls.outcome].map((digit) => digit === "1");
        if (!compared.some((c) => right(columns[c].before, row) === before && right(c, row) === after)) continue;
      }
      if (sought.length) {
        const held = [...own, ...place.map((c) => columns[c].texts[row])];
        if (!sought.every((word) => held.some((text) => lower(text).includes(word)))) continue;
      }
      found.push(row);
    }
    return found;
  }

  function sorted(found) {
    const sign = controls.direction === "up" ? 1 : -1;
    if (controls.sort === "order") return sign === 1 ? found : found.reverse();
    if (controls.sort === "question") {
      const collator = new Intl.Collator(undefined, { numeric: true });
      return found.sort((a, b) => sign * collator.compare(texts[rows[a][1]], texts[rows[b][1]]) || a - b);
    }
    const metric = Number(controls.sort);
    const over = chosen().length ? chosen() : visible();
    const means = new Map();
    for (const row of found) {
      const known = over.map((c) => value(c, row, metric)).filter((v) => v !== null);
      means.set(row, known.length ? known.reduce((a, b) => a + b) / known.length : null);
    }
    return found.sort((a, b) => {
      const [x, y] = [means.get(a), means.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // undefined ones last, either way
      return sign * (x - y) || a - b;
    });
  }

  // ----------------------------------------------------------------------------------------------------------- draw

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  /** `text` in text nodes, the words sought marked. */
  function fill(parent, text, sought) {
    const low = text.toLowerCase();
    let at = 0;
    while (sought.length && low.length === text.length) {
      let start = -1;
      let length = 0;
      for (const word of sought) {
        const found = low.indexOf(word, at);
        if (found >= 0 && (start < 0 || found < start)) [start, length] = [found, word.length];
      }
      if (start < 0) break;
      parent.append(text.slice(at, start), element("mark", "", text.slice(start, start + length)));
      at = start + length;
    }
    parent.append(text.slice(at));
    return parent;
  }

  function textBlock(text, sought) {
    const block = element("div", "text");
    block.dir = "auto";
    if (text === "") block.append(element("span", "nothing", "(nothing)"));
    else fill(block, text, sought);
    if (text.length < 420) return [block];
    block.classList.add("long");
    const more = element("button", "more", "Show all");
    more.type = "button";
    more.setAttribute("aria-expanded", "false");
    more.addEventListener("click", () => {
      const folded = block.classList.toggle("long");
      more.textContent = folded ? "Show all" : "Show less";
      more.setAttribute("aria-expanded", String(!folded));
    });
    return [block, more];
  }

  function paragraph(className, text, sought) {
    const made = element("p", className);
    made.dir = "auto";
    return fill(made, text, sought);
  }

  function drawRow(row, sought) {
    const body = element("tbody");
    body.setAttribute("role", "rowgroup");
    const [set, question, answer, original] = rows[row];
    const place = visible().filter((c) => columns[c].texts[row] !== null);
    place.forEach((column, number) => {
      const line = element("tr");
      line.setAttribute("role", "row");
      if (number === 0) {
        const head = element("th", "q");
        head.scope = "rowgroup";
        head.setAttribute("role", "rowheader");
        head.rowSpan = place.length;
        if (data.sets.length > 1) head.append(element("p", "set", data.sets[set]));
        head.append(paragraph("question", texts[question], sought));
        head.append(element("div", "who", "reference"), paragraph("reference", texts[answer], sought));
        if (original !== null && original !== answer) head.append(paragraph("reference", texts[original], sought));
        line.append(head);
      }
      const cell = element("td", "answer");
      cell.setAttribute("role", "cell");
      const who = element("div", "who", columns[column].label);
      if (columns[column].kind === "after" && afters.length > 1) {
        who.prepend(swatches[columns[column].swatch].firstElementChild.cloneNode(true), " ");
      }
      cell.append(who, ...textBlock(texts[columns[column].texts[row]], sought));
      line.append(cell);
      metrics.forEach((title, metric) => {
        const known = value(column, row, metric);
        const number = element("td", "number", known === null ? "–" : (known / 1000).toFixed(3));
        number.setAttribute("role", "cell");
        number.dataset.label = title;
        line.append(number);
      });
      body.append(line);
    });
    return body;
  }

  function described(total) {
    const of = total === rows.length ? `${total}` : `${total} found, of ${rows.length}`;
    const size = Number(controls.size);
    const range = total > size ? `${page * size + 1} to ${Math.min(total, (page + 1) * size)} of ` : "";
    const direction = controls.direction === "up" ? "rising" : "falling";
    const over = chosen().length === 1 || !chosen().length ? "" : ", mean of all answers after unlearning";
    const by = controls.sort === "order" ? "" : controls.sort === "question" ? `, by question, ${direction}`
      : `, by ${metrics[Number(controls.sort)]}${over}, ${direction}`;
    return `Questions: ${range}${of}${by}.`;
  }

  function draw() {
    const size = Number(controls.size);
    const pages = Math.max(1, Math.ceil(shown.length / size));
    page = Math.min(page, pages - 1);
    const sought = words();
    for (const body of [...table.tBodies]) body.remove();
    table.append(...shown.slice(page * size, (page + 1) * size).map((row) => drawRow(row, sought)));
    for (const head of table.tHead.rows[0].cells) {
      if (head.dataset.sort === undefined) continue;
      if (head.dataset.sort !== controls.sort) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", controls.direction === "up" ? "ascending" : "descending");
    }
    byId("status").textContent = described(shown.length);
    byId("page").textContent = `Page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page === pages - 1;
    byId("pages").hidden = pages === 1;
  }

  function update() {
    page = 0;
    shown = sorted(select());
    draw();
  }

  // -------------------------------------------------------------------------------------------------------- controls

  for (const name of Object.keys(controls)) {
    const control = byId(name);
    if (!control) continue;
    control.value = controls[name];
    let waiting = 0;
    control.addEventListener(name === "search" ? "input" : "change", () => {
      controls[name] = control.value;
      clearTimeout(waiting);
      waiting = setTimeout(update, name === "search" ? 150 : 0);
    });
  }
  for (const head of table.tHead.rows[0].cells) {
    if (head.dataset.sort === undefined) continue;
    head.firstElementChild.addEventListener("click", () => {
      const again = controls.sort === head.dataset.sort;
      controls.direction = again && controls.direction === "up" ? "down" : "up";
      controls.sort = head.dataset.sort;
      byId("sort").value = controls.sort;
      byId("direction").value = controls.direction;
      update();
    });
  }
  const turn = (by) => {
    page += by;
    draw();
    byId("status").scrollIntoView({ block: "start" });
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("controls").hidden = false;
  table.hidden = false;
  update();
})();
