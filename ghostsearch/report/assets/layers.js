// Each layer's latency before and after in the selected model: every layer timed alone on the device.
const layerPlot = document.getElementById("layer-plot");
const layerDevice = document.getElementById("layer-device");
const layerSum = document.getElementById("layer-sum");
const layerTable = document.getElementById("layer-table");

const microseconds = (seconds) => (seconds >= 1e-3 ? `${digits(seconds * 1e3)} ms` : `${digits(seconds * 1e6)} µs`);
const siteNumber = new Map(study.sites.map((site, i) => [site.path, i]));

const layerRows = (timed, model) => {
  const after = model.id === "baseline" ? timed.baseline : timed.models[model.id];
  return after && timed.layers.map((path, i) => {
    const site = siteNumber.get(path);
    const choice = site === undefined ? study.choices[0] : study.choices[model.choices[site]];
    return { path, choice, before: timed.baseline[i], after: after[i] };
  });
};

const drawLayerTimes = () => {
  const model = byId.get(state.selected);
  if (!layerPlot || !model) return;
  const timed = study.layer_times[layerDevice ? Number(layerDevice.value) : 0];
  const rows = layerRows(timed, model) || [];
  const total = (key) => rows.reduce((sum, row) => sum + row[key], 0);
  layerSum.textContent = rows.length
    ? `Model ${model.id}: ${microseconds(total("before"))} in all layers before, ${microseconds(total("after"))} after (${shareText(total("after") / total("before"))}).`
    : `Model ${model.id} is neither a finalist nor uniform: its layers' times were not kept.`;
  const bars = (name, key, marker) => ({
    type: "bar", name, x: rows.map((row) => escaped(row.path)), y: rows.map((row) => row[key] * 1e6), marker,
    hovertext: rows.map((row) => `<b>${escaped(row.path)}</b><br>${escaped(row.choice.text)}<br>${microseconds(row.before)} before, ${microseconds(row.after)} after (${shareText(row.after / row.before)})`),
    hovertemplate: "%{hovertext}<extra></extra>",
  });
  const traces = [
    bars("before", "before", { color: "rgba(0,0,0,0)", line: { color: colour("soft"), width: 1 } }),
    bars("after, coloured by choice", "after", { color: rows.map((row) => row.choice.colour) }),
  ];
  const layout = plotLayout("", "latency (µs)", { barmode: "group", bargap: 0.2, bargroupgap: 0.05, hovermode: "closest" });
  layout.xaxis = { ...layout.xaxis, tickangle: -60, tickfont: { size: 10 }, showgrid: false };
  Plotly.react(layerPlot, traces, layout, PLOT_CONFIG);
  const cell = (text) => element("td", { class: "num" }, text);
  layerTable.tBodies[0].replaceChildren(...rows.map((row) => element("tr", {}, element("th", { scope: "row" }, element("code", {}, row.path)),
    element("td", {}, element("code", {}, row.choice.text)), cell(microseconds(row.before)), cell(microseconds(row.after)), cell(shareText(row.after / row.before)))));
};

const startLayerTimes = () => {
  onSelect(drawLayerTimes);
  onTheme(drawLayerTimes);
  if (layerDevice) layerDevice.addEventListener("change", drawLayerTimes);
};
