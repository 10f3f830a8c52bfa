// Progress: each trial's score, the hypervolume, the rungs.
const ORIGINS = { baseline: ["square", "ink"], uniform: ["diamond-open", "uniform"], solver: ["triangle-up", "ring"], sampler: ["circle-open", "accent"] };

const drawScores = () => {
  const factor = study.score.factor;
  const origins = [...new Set(study.models.map((m) => m.origin))];
  const traces = origins.map((origin) => {
    const own = study.models.filter((m) => m.origin === origin && known(m.score));
    const [symbol, tone] = ORIGINS[origin] || ["circle", "other"];
    return {
      x: own.map((m) => m.number), y: own.map((m) => m.score * factor), customdata: own.map((m) => m.id), name: origin, mode: "markers",
      text: own.map((m) => `<b>${escaped(m.id)}</b><br>trial ${m.number}, ${escaped(m.state)}<br>${scoreText(m.score)}`), hovertemplate: "%{text}<extra></extra>",
      marker: { symbol, size: 8, color: colour(tone), opacity: own.map((m) => (m.state === "complete" ? 1 : 0.35)), line: { width: 1.5 } },
    };
  });
  const plot = document.getElementById("score-plot");
  Plotly.react(plot, traces, plotLayout("trial", `validation ${axisTitle(study.score)}`, { hovermode: "closest" }), PLOT_CONFIG);
  return plot;
};

const drawVolume = () => {
  const plot = document.getElementById("volume-plot");
  if (!study.history.curve) {
    plot.textContent = "No trial with a score and a cost beside the baseline's yet.";
    return;
  }
  const [x, y] = [0, 1].map((i) => study.history.curve.map((point) => point[i]));
  const trace = { x, y, mode: "lines", line: { shape: "hv", color: colour("accent"), width: 2 }, hovertemplate: "after trial %{x}: %{y:.3f}<extra></extra>", showlegend: false };
  Plotly.react(plot, [trace], plotLayout("trial", "hypervolume", {}), PLOT_CONFIG);
};

const drawRungs = () => {
  const plot = document.getElementById("rung-plot");
  if (!plot) return;
  const place = new Map(study.rungs.epochs.map((epochs, i) => [epochs, i]));
  const traces = study.rungs.curves.map((curve) => {
    const strong = front.has(curve.id) || curve.id === "baseline";
    const tone = curve.id === state.selected ? "ring" : strong ? "accent" : "other";
    return {
      x: curve.points.map((p) => place.get(p[0])), y: curve.points.map((p) => p[1] * study.score.factor), mode: "lines+markers", showlegend: false,
      line: { color: colour(tone), width: curve.id === state.selected ? 3 : 1.2 }, marker: { size: 4 }, opacity: tone === "other" ? 0.45 : 0.9,
      customdata: curve.points.map(() => curve.id), hovertemplate: `<b>${escaped(curve.id)}</b> %{y:.4g}<extra></extra>`,
    };
  });
  const layout = plotLayout("proxy epochs after inheriting (rung)", `validation ${axisTitle(study.score)}`, { hovermode: "closest" });
  layout.xaxis = { ...layout.xaxis, tickvals: [...place.values()], ticktext: [...place.keys()].map(String), range: [-0.15, place.size - 0.85] };
  Plotly.react(plot, traces, layout, PLOT_CONFIG);
  return plot;
};

const startCharts = () => {
  const draw = () => [drawScores(), drawVolume(), drawRungs()];
  for (const plot of draw().filter(Boolean)) plot.on("plotly_click", (event) => select(event.points[0].customdata));
  onTheme(draw);
  onSelect(drawRungs);
};
