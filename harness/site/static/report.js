"use strict";

/* The colours are chosen before anything is painted. */
const THEME = "ovss-theme";

function rememberedTheme() {
  try {
    return localStorage.getItem(THEME) || "";
  } catch {
    return ""; // some browsers keep nothing for files
  }
}

function useTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

useTheme(rememberedTheme());

function setUpTheme() {
  const select = document.getElementById("theme");
  select.value = rememberedTheme();
  select.parentElement.hidden = false;
  select.addEventListener("change", () => {
    useTheme(select.value);
    try {
      localStorage.setItem(THEME, select.value);
    } catch {
      return;
    }
  });
}

/* Sorting: every head with data-sort becomes a button. */

function sortValue(cell, kind) {
  if (kind === "text") return cell.textContent.trim().toLowerCase();
  return "v" in cell.dataset ? Number(cell.dataset.v) : null;
}

function compareValues(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null); // empty cells last, both ways
  if (typeof a === "string") return sign * a.localeCompare(b);
  return sign * (a - b);
}

function sortTable(table, head, direction) {
  const body = table.tBodies[0];
  const sign = direction === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map((row) => ({ row, value: sortValue(row.cells[head.cellIndex], head.dataset.sort) }));
  keyed.sort((a, b) => compareValues(a.value, b.value, sign));
  const sorted = document.createDocumentFragment();
  for (const { row } of keyed) sorted.append(row);
  body.append(sorted);
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
}

function nextDirection(head) {
  const now = head.getAttribute("aria-sort");
  if (now) return now === "ascending" ? "descending" : "ascending";
  return head.dataset.first || "descending";
}

function setUpSorting() {
  for (const head of document.querySelectorAll("thead th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortTable(head.closest("table"), head, nextDirection(head)));
    head.append(button);
  }
}

/* The leaderboard: lines and data sets that are shown, and means over what they have in common. */

const SUMMARIES = ["rank", "mean", "speed", "peak"];

function readLine(row) {
  const summary = Object.fromEntries(SUMMARIES.map((name) => [name, row.querySelector("td." + name)]));
  const first = Object.fromEntries(SUMMARIES.map((n) => [n, [[...summary[n].childNodes], summary[n].dataset.v, summary[n].className]]));
  return { row, sets: [...row.querySelectorAll("td.set")], summary, first, off: false, text: row.dataset.text.toLowerCase() };
}

function readSection(section) {
  const heads = [...section.querySelectorAll("th[data-key]")];
  return {
    group: section.dataset.group,
    table: section.querySelector("table"),
    heads,
    over: section.querySelector(".over"),
    lines: [...section.querySelectorAll("tbody tr")].map(readLine),
  };
}

function isWhole(line, k) {
  return line.sets[k].dataset.whole === "1";
}

function commonSets(lines, shown) {
  const counted = lines.filter((line) => shown.some((k) => isWhole(line, k)));
  return counted.length ? shown.filter((k) => counted.every((line) => isWhole(line, k))) : [];
}

function restore(line) {
  for (const name of SUMMARIES) {
    const [nodes, value, classes] = line.first[name];
    const cell = line.summary[name];
    cell.replaceChildren(...nodes);
    cell.className = classes;
    setValue(cell, value);
  }
}

function setValue(cell, value) {
  if (value === undefined) delete cell.dataset.v;
  else cell.dataset.v = value;
}

function put(cell, value, digits) {
  cell.textContent = value === undefined ? "" : value.toFixed(digits);
  cell.classList.remove("m1", "m2");
  setValue(cell, value);
}

/* Mean, speed and memory over the same data sets for every line; as the grid of the leaderboard has them. */
function summarise(line, common) {
  const has = common.length > 0 && common.every((k) => isWhole(line, k));
  const cells = has ? common.map((k) => line.sets[k]) : [];
  const timed = has && cells.every((cell) => "s" in cell.dataset);
  const mean = (name) => cells.reduce((sum, cell) => sum + Number(cell.dataset[name]), 0) / cells.length;
  put(line.summary.rank, undefined, 0);
  put(line.summary.mean, has ? mean("v") : undefined, 2);
  put(line.summary.speed, timed ? 1 / mean("s") : undefined, 1);
  put(line.summary.peak, timed ? Math.max(...cells.map((cell) => Number(cell.dataset.mb))) : undefined, 0);
}

function setUpBoard() {
  const controls = document.querySelector(".controls");
  if (!controls) return;
  const sections = [...document.querySelectorAll("section.board")].map(readSection);
  const filter = document.getElementById("filter");
  const boxes = [...controls.querySelectorAll("input[type=checkbox]")];
  const state = document.getElementById("state");
  let wasNarrowed = false;

  function apply() {
    const keys = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
    const wanted = filter.value.trim().toLowerCase();
    let all = 0, visible = 0, narrowed = keys.size < boxes.length;
    for (const section of sections) {
      for (const line of section.lines) {
        line.row.hidden = line.off || !line.text.includes(wanted);
        all += 1;
        visible += !line.row.hidden;
        section.heads.forEach((head, k) => (line.sets[k].hidden = !keys.has(head.dataset.key)));
      }
      for (const head of section.heads) head.hidden = !keys.has(head.dataset.key);
    }
    narrowed ||= visible < all;
    const said = [];
    const changed = narrowed || wasNarrowed;
    wasNarrowed = narrowed;
    for (const group of changed ? new Set(sections.map((section) => section.group)) : []) {
      said.push(...applyGroup(sections.filter((section) => section.group === group), keys, narrowed));
    }
    state.textContent = narrowed
      ? `Shown: lines ${visible} of ${all}, data sets ${keys.size} of ${boxes.length}; ${said.join("; ")}. ` +
        "Ranks are shown when nothing is hidden."
      : `Shown: all lines (${all}) and data sets (${boxes.length}).`;
  }

  function applyGroup(group, keys, narrowed) {
    const heads = group[0].heads;
    const shown = heads.map((_, k) => k).filter((k) => keys.has(heads[k].dataset.key));
    const common = commonSets(group.flatMap((section) => section.lines).filter((line) => !line.row.hidden), shown);
    const names = common.map((k) => heads[k].dataset.key).join(", ");
    const text = common.length ? `mean, speed and memory over ${names}` : "no mean: no data set has all of these lines";
    for (const section of group) {
      for (const line of section.lines) narrowed ? summarise(line, common) : restore(line);
      if (section.over) section.over.textContent = narrowed ? text[0].toUpperCase() + text.slice(1) + "." : section.over.dataset.text;
      const sorted = section.table.querySelector("th[aria-sort]");
      if (sorted) sortTable(section.table, sorted, sorted.getAttribute("aria-sort"));
    }
    return narrowed ? [text] : [];
  }

  function addHideButton(line) {
    const button = document.createElement("button");
    const name = line.row.querySelector(".method").textContent;
    button.type = "button";
    button.className = "hide";
    button.textContent = "\u00d7";
    button.title = "hide this line";
    button.setAttribute("aria-label", `hide ${name}`);
    button.addEventListener("click", () => {
      line.off = true;
      apply();
      document.getElementById("all").focus();
    });
    line.row.cells[0].append(button);
  }

  function check(value) {
    for (const box of boxes) box.checked = value;
    apply();
  }

  filter.addEventListener("input", apply);
  for (const box of boxes) box.addEventListener("change", apply);
  document.getElementById("every").addEventListener("click", () => check(true));
  document.getElementById("none").addEventListener("click", () => check(false));
  document.getElementById("all").addEventListener("click", () => {
    filter.value = "";
    for (const section of sections) for (const line of section.lines) line.off = false;
    check(true);
  });
  for (const section of sections) section.lines.forEach(addHideButton);
  controls.hidden = false;
  apply();
}

document.addEventListener("DOMContentLoaded", () => {
  setUpTheme();
  setUpSorting();
  setUpBoard();
});
