// The study's data, formatting, and the one place that knows which model is selected.
const study = JSON.parse(document.getElementById("study").textContent);
const byId = new Map(study.models.map((model) => [model.id, model]));
const front = new Set(study.front);
const missed = new Set(study.missed);
const baseline = byId.get("baseline");

const scoreText = (value) => {
  if (!known(value)) return NONE;
  return study.score.unit === "%" ? `${(value * 100).toFixed(1)} %` : String(Number(value.toPrecision(4)));
};
// A model's figures as searched, or after final training where it had that.
const figures = (model, tested) => (tested ? model.final : model);

// Choice -> sites that took it, in the order of the colours; sites that stay come last in words.
const sitesByChoice = (model) => {
  const found = study.choices.map(() => []);
  model.choices.forEach((choice, site) => found[choice].push(study.sites[site].path));
  return study.choices.map((choice, i) => ({ ...choice, sites: found[i] })).filter((row) => row.sites.length);
};
const widthsInWords = (model) => {
  const count = new Map();
  for (const width of Object.values(model.groups)) count.set(width, (count.get(width) || 0) + 1);
  return [...count].sort().map(([width, groups]) => `${width} × ${groups} group${groups > 1 ? "s" : ""}`);
};

const listeners = [];
const state = { selected: null };
const onSelect = (listener) => listeners.push(listener);
const select = (id) => {
  if (!byId.has(id)) return;
  state.selected = id;
  document.querySelectorAll("tr[data-model]").forEach((row) => row.classList.toggle("selected", row.dataset.model === id));
  listeners.forEach((listener) => listener(byId.get(id)));
};
