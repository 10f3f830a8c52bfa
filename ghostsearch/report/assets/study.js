// What a reader does on the page: pick axes, select a model, drag a budget, sort and filter the trials.
const models = new Map(page.models.map((model) => [model.id, model]));
const listeners = [];
const state = { selected: null, dragged: false };
const select = (id) => {
  if (!models.has(id)) return;
  state.selected = id;
  document.querySelectorAll("tr[data-model]").forEach((row) => row.classList.toggle("selected", row.dataset.model === id));
  listeners.forEach((listener) => listener(models.get(id)));
};
const clickable = (id) => {
  const plot = $(id);
  if (plot && plot.on) plot.on("plotly_click", (event) => select(event.points[0].customdata));
};

// The front: one figure for each cost and stage; the selected model gets a ring, a dragged budget a line.
const axis = () => page.axes[Number($("axis-x").value)];
const stage = () => $("axis-y").value;
const placeOf = (figure, id) => {
  for (const trace of figure.data) {
    const i = (trace.customdata || []).indexOf(id);
    if (i >= 0) return [trace.x[i], trace.y[i]];
  }
  return null;
};
const drawFront = () => {
  if (!axis()) return;
  const figure = structuredClone(page.front[axis().name][stage()]);
  const place = placeOf(figure, state.selected);
  const [x, y] = place || [null, null];
  figure.data.push({ type: "scatter", mode: "markers", x: [x], y: [y], hoverinfo: "skip", showlegend: false, marker: { symbol: "circle-open", size: 22, color: page.ring, line: { width: 2.5 } } });
  for (const trace of figure.data) {
    if (!trace.customdata) continue;
    trace.hovertext = trace.customdata.map((id) => (models.has(id) ? models.get(id).hover : id));
    trace.hovertemplate = "%{hovertext}<extra></extra>";
  }
  if (state.dragged && axis().baseline[stage()]) {
    const at = axis().baseline[stage()] * Number($("max-cost").value) / 100;
    figure.layout.shapes = [...(figure.layout.shapes || []), { type: "line", x0: at, x1: at, yref: "paper", y0: 0, y1: 1, line: { color: page.ring, width: 2 } }];
  }
  draw("front-plot", figure);
};

const drawLayers = () => {
  if (!$("layer-plot")) return;
  const device = $("layer-device") ? $("layer-device").value : Object.keys(page.layers)[0];
  const figure = page.layers[device][state.selected] || page.layers[device][page.chosen];
  if (!figure) return;
  draw("layer-plot", figure);
  $("layer-sum").textContent = figure.layout.meta.caption;
};

const drawStrips = () => {
  const figure = structuredClone(page.strips);
  const row = figure.layout.meta.rows.indexOf(state.selected);
  if (row >= 0) figure.layout.shapes = [{ type: "rect", layer: "below", xref: "paper", x0: 0, x1: 1, y0: -row - 0.08, y1: 0.88 - row, line: { color: page.ring, width: 2 } }];
  draw("strips", figure);
};

// The selected model in words.
const showDetail = (model) => {
  const facts = element("dl", {}, ...model.facts.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
  const choices = element("ul", {}, ...model.about.map(([choice, count, sites]) => element("li", {}, element("code", {}, choice), ` × ${count}`,
    sites ? element("div", { class: "soft mono" }, sites) : null)));
  const files = element("ul", {}, ...(page.files[model.id] || []).map((file) => element("li", {}, element("a", { href: file.href }, file.name), ` ${file.size}`)));
  $("detail").replaceChildren(element("h3", {}, element("span", { class: "mono" }, model.id)), element("p", { class: "soft" }, model.note), facts, choices, files);
  if (![...$("pick").options].some((option) => option.value === model.id)) $("pick").append(element("option", { value: model.id }, model.id));
  $("pick").value = model.id;
};

// Two sliders, by the rule of `ghostsearch choose`: the cheapest model, on the study's first cost, that keeps the budget and
// the drop. Where no drop is set, one standard error; where none keeps that, the best score within the budget.
const isFree = (slider) => Number(slider.value) >= Number(slider.max);
const taken = () => {
  const [budget, drop] = [Number($("max-cost").value) / 100, Number($("max-drop").value)];
  const anyDrop = isFree($("max-drop"));
  const cost = (option) => option.shares[axis().name];
  const first = (option) => option.shares[page.axes[0].name];
  const within = page.options.filter((option) => cost(option) <= budget && option.missed.every((name) => name === axis().name));
  const kept = within.filter((option) => option.drop <= (anyDrop ? option.error : drop) + 1e-9);
  if (kept.length || !anyDrop) return kept.sort((a, b) => first(a) - first(b) || a.drop - b.drop)[0];
  return within.sort((a, b) => a.drop - b.drop || first(a) - first(b))[0];
};
const showTaken = () => {
  const [cost, drop] = [$("max-cost"), $("max-drop")];
  $("max-cost-name").textContent = axis().label;
  $("max-cost-text").textContent = `${cost.value} % of the baseline`;
  $("max-drop-text").textContent = isFree(drop) ? "not set (one standard error)" : `${drop.value} ${drop.value === "1" ? page.drop_unit.slice(0, -1) : page.drop_unit}`;
  const option = taken();
  $("taken").textContent = option ? `${option.id}: ${option.text}` : "No finished model meets both limits.";
  $("command").textContent = option ? option.command : "";
  $("copy").hidden = !option;
  $("copy").textContent = "Copy";
  if (state.dragged && option) select(option.id);
  else if (state.dragged) drawFront();
};
const startSliders = () => {
  if (!$("max-cost")) return;
  for (const slider of [$("max-cost"), $("max-drop")]) {
    slider.addEventListener("input", () => {
      state.dragged = true;
      showTaken();
    });
  }
  $("axis-x").addEventListener("change", showTaken);
  $("copy").addEventListener("click", async () => {
    const range = document.createRange();
    range.selectNodeContents($("command"));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    try { await navigator.clipboard.writeText($("command").textContent); } catch { document.execCommand("copy"); }
    $("copy").textContent = "Copied";
  });
  showTaken();
};

// The trials table is in the page; its headings sort it, the controls filter it.
const sortBy = (table, column) => {
  const heads = [...table.tHead.rows[0].cells];
  const ascending = heads[column].getAttribute("aria-sort") === "descending" || (heads[column].getAttribute("aria-sort") === "none" && heads[column].dataset.first !== "descending");
  heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? (ascending ? "ascending" : "descending") : "none"));
  const numeric = heads[column].classList.contains("num");
  const value = (cell) => (!numeric ? cell.textContent : isNaN(cell.dataset.value) ? "" : cell.dataset.value);
  // What is missing comes last, whatever the order.
  const compare = (a, b) => (a === b ? 0 : a === "" ? 1 : b === "" ? -1 : (numeric ? a - b : a.localeCompare(b)) * (ascending ? 1 : -1));
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(value(a.cells[column]), value(b.cells[column]))));
};
const filterTrials = () => {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...$("trials-table").tBodies[0].rows];
  for (const row of rows) {
    const text = `${row.textContent} ${models.get(row.dataset.model).about.join(" ")}`.toLowerCase();
    const wanted = (!$("filter-state").value || row.dataset.state === $("filter-state").value) && (!$("filter-front").checked || row.dataset.front);
    row.hidden = !(wanted && words.every((word) => text.includes(word)));
  }
  $("trial-count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} trials`;
};

const start = () => {
  for (const [id, figure] of Object.entries(page.progress)) redraws.push(() => draw(`${id}-plot`, figure));
  redraws.push(drawFront, drawLayers, drawStrips);
  listeners.push(drawFront, drawLayers, drawStrips, showDetail);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-select]");
    if (button) select(button.dataset.select);
  });
  ["axis-x", "axis-y"].forEach((id) => $(id).addEventListener("change", drawFront));
  $("pick").addEventListener("change", () => select($("pick").value));
  if ($("layer-device")) $("layer-device").addEventListener("change", drawLayers);
  $("save-svg").addEventListener("click", () => Plotly.downloadImage($("front-plot"), { format: "svg", filename: "front", width: 1000, height: 560 }));
  [...$("trials-table").tHead.rows[0].cells].forEach((head, i) => head.firstElementChild.addEventListener("click", () => sortBy($("trials-table"), i)));
  ["filter", "filter-state", "filter-front"].forEach((id) => $(id).addEventListener("input", filterTrials));
  filterTrials();
  startSliders();
  setTheme(remembered() || "auto");
  ["front-plot", "strips", ...Object.keys(page.progress).map((id) => `${id}-plot`)].forEach(clickable);
  select(models.has(page.chosen) ? page.chosen : models.keys().next().value);
};
start();
