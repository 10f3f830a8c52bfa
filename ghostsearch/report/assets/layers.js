// What each layer's choice alone saves of the plain model's latency, as the candidate table has it.
const layerPlot = document.getElementById("layer-plot");

const drawLayerSavings = () => {
  const model = byId.get(state.selected);
  if (!layerPlot || !model) return;
  const rows = study.sites.map((site, i) => ({ path: site.path, choice: study.choices[model.choices[i]] }));
  const saved = ({ path, choice }) => (choice.text === "keep" ? 0 : ((study.layer_savings.sites[path] || {})[choice.text] ?? null));
  const trace = {
    type: "bar", x: rows.map((row) => escaped(row.path)), y: rows.map((row) => (known(saved(row)) ? saved(row) * 100 : null)),
    marker: { color: rows.map((row) => row.choice.colour) }, customdata: rows.map((row) => escaped(row.choice.text)),
    hovertemplate: "%{x}<br>%{customdata}<br>saves %{y:.2f} %<extra></extra>",
  };
  const layout = plotLayout("", "saved (%)", { bargap: 0.25, showlegend: false });
  layout.xaxis = { ...layout.xaxis, tickangle: -60, tickfont: { size: 10 }, showgrid: false };
  Plotly.react(layerPlot, [trace], layout, PLOT_CONFIG);
};

const startLayerSavings = () => {
  onSelect(drawLayerSavings);
  onTheme(drawLayerSavings);
};
