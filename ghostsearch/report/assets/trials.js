// The trials table: sorted by its headings, filtered by words, state and front.
const trialsTable = document.getElementById("trials-table");
const COLUMNS = [
  { name: "trial", of: (m) => m.number, number: true },
  { name: "model", of: (m) => m.id },
  { name: "origin", of: (m) => m.origin },
  { name: "state", of: (m) => m.state },
  { name: study.score.label, of: (m) => m.score, text: (m) => scoreText(m.score), number: true },
  { name: "rung (epochs)", of: (m) => m.rung, number: true },
  ...study.axes.filter((axis) => axis.table).map((axis) => ({
    name: axis.label, number: true, of: (m) => (m.values[axis.key] || [])[0],
    text: (m) => `${costText(axis, (m.values[axis.key] || [])[0])}\u2002${shareText((m.values[axis.key] || [])[1])}`,
  })),
  { name: "seconds", of: (m) => m.seconds, text: (m) => digits(m.seconds), number: true },
  { name: "remark", words: true, of: (m) => (front.has(m.id) ? `on the front ${m.id === study.chosen ? "(chosen)" : ""}` : m.reason) },
];
const sorting = { column: 0, ascending: true };
const filters = ["filter", "filter-state", "filter-front"].map((id) => document.getElementById(id));

const matches = (model) => {
  const [words, wanted, onlyFront] = [filters[0].value.toLowerCase().split(/\s+/).filter(Boolean), filters[1].value, filters[2].checked];
  if ((wanted && model.state !== wanted) || (onlyFront && !front.has(model.id))) return false;
  const text = `${model.number} ${model.id} ${model.origin} ${model.reason} ${sitesByChoice(model).map((row) => row.text).join(" ")} ${Object.values(model.groups).join(" ")}`.toLowerCase();
  return words.every((word) => text.includes(word));
};

const compared = (a, b) => {
  const [x, y] = [a, b].map(COLUMNS[sorting.column].of);
  if (!known(x) || !known(y)) return known(x) ? -1 : known(y) ? 1 : 0;
  const order = typeof x === "number" ? x - y : String(x).localeCompare(String(y));
  return sorting.ascending ? order : -order;
};

const trialRow = (model) => {
  const cells = COLUMNS.map((column) => {
    const value = column.of(model);
    const text = column.text ? column.text(model) : known(value) ? String(value) : NONE;
    return column.name === "model"
      ? element("th", { scope: "row" }, element("button", { type: "button", class: "link", "data-select": model.id }, text))
      : element("td", { class: column.number ? "num" : column.words ? "words" : null }, text);
  });
  const row = element("tr", { "data-model": model.id }, ...cells);
  row.classList.toggle("selected", model.id === state.selected);
  return row;
};

const drawTrials = () => {
  const shown = study.models.filter(matches).sort(compared);
  trialsTable.tBodies[0].replaceChildren(...shown.map(trialRow));
  const note = study.left_out ? `; ${study.left_out} older ones are in trials.csv` : "";
  document.getElementById("trial-count").textContent = `${shown.length} of ${study.models.length} trials${note}`;
  [...trialsTable.tHead.rows[0].cells].forEach((cell, i) => {
    cell.setAttribute("aria-sort", i === sorting.column ? (sorting.ascending ? "ascending" : "descending") : "none");
    cell.querySelector("span").textContent = i === sorting.column ? (sorting.ascending ? " ▲" : " ▼") : "";
  });
};

const startTrials = () => {
  const heads = COLUMNS.map((column, i) => {
    const button = element("button", { type: "button" }, column.name, element("span", { "aria-hidden": "true" }));
    button.addEventListener("click", () => {
      sorting.ascending = sorting.column === i ? !sorting.ascending : !column.number || i === 0;
      sorting.column = i;
      drawTrials();
    });
    return element("th", { scope: "col", class: column.number ? "num" : null }, button);
  });
  trialsTable.append(element("thead", {}, element("tr", {}, ...heads)), element("tbody"));
  filters.forEach((filter) => filter.addEventListener("input", drawTrials));
  drawTrials();
};
