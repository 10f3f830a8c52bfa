// Seconds of each layer before and after, as the candidate table timed them alone.
const layerPlot = document.getElementById("layer-plot");

const drawLayerTimes = () => {
  const model = byId.get(state.selected);
  if (!layerPlot || !model) return;
  const times = new Map(study.layer_times.map((row) => [row.site, row]));
  const rows = study.sites.map((site, i) => ({ site, row: times.get(site.path), choice: study.choices[model.choices[i]].text, kept: model.widths ? model.widths[i] : 1 }))
    .filter(({ row }) => row);
  const after = rows.map(({ row, choice }) => (choice === "keep" ? row.plain : row.choices[choice]));
  const bars = (name, values, tone) => ({
    type: "bar", name, x: rows.map(({ site }) => escaped(site.path)), y: values.map((s) => (known(s) ? s * 1e3 : null)), marker: { color: colour(tone) },
    customdata: rows.map(({ choice, kept }) => escaped(choice + (kept < 1 ? `, ${Math.round(kept * 100)} % of the channels` : ""))),
  });
  const plainBars = { ...bars("plain layer", rows.map(({ row }) => row.plain), "other"), hovertemplate: "%{x}<br>plain %{y:.3g} ms<extra></extra>" };
  const ownBars = { ...bars(`its choice in ${model.id}`, after, "accent"), hovertemplate: "%{x}<br>%{customdata}<br>%{y:.3g} ms<extra></extra>" };
  const layout = plotLayout("", "latency alone (ms)", { barmode: "group", bargap: 0.25 });
  layout.xaxis = { ...layout.xaxis, tickangle: -60, tickfont: { size: 10 }, showgrid: false };
  Plotly.react(layerPlot, [plainBars, ownBars], layout, PLOT_CONFIG);
};

const startLayerTimes = () => {
  onSelect(drawLayerTimes);
  onTheme(drawLayerTimes);
};
