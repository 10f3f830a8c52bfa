// Score against a cost; the axes switch, a click selects.
const axisX = document.getElementById("axis-x");
const axisY = document.getElementById("axis-y");
const pick = document.getElementById("pick");
const frontPlot = document.getElementById("front-plot");

study.axes.forEach((axis, i) => axisX.append(element("option", { value: i }, axis.label)));
axisY.append(element("option", { value: "search" }, `validation ${study.score.label}, as searched`));
if (study.models.some((model) => model.final)) {
  axisY.append(element("option", { value: "final" }, `test ${study.score.label}, after final training`));
  axisY.value = "final";
}

// What a model is on the picture: the first kind that fits it.
const KINDS = [
  { name: "chosen (knee)", fits: (m) => m.id === study.chosen && m.id !== "baseline", mark: () => ({ symbol: "star", size: 17, color: colour("accent") }) },
  { name: "baseline", fits: (m) => m.id === "baseline", mark: () => ({ symbol: "square", size: 12, color: colour("ink") }) },
  { name: "missed a limit", fits: (m) => missed.has(m.id), mark: () => ({ symbol: "x", size: 11, color: colour("warn") }) },
  { name: "uniform", fits: (m) => m.origin === "uniform", mark: () => ({ symbol: "diamond-open", size: 11, color: colour("uniform"), line: { width: 2.2 } }) },
  { name: "front", fits: (m) => front.has(m.id), mark: () => ({ symbol: "circle", size: 11, color: colour("accent") }) },
  { name: "other trials", fits: (m) => m.state === "complete" && !m.reason, mark: () => ({ symbol: "circle-open", size: 8, color: colour("other"), line: { width: 1.5 } }) },
  { name: "stopped early", fits: () => true, mark: () => ({ symbol: "triangle-down-open", size: 6, color: colour("other"), line: { width: 1 } }) },
];
const kindOf = (model) => KINDS.findIndex((kind) => kind.fits(model));

const wrapped = (words, width = 58, lines = 3) => {
  const rows = [""];
  for (const word of words) {
    if ((rows.at(-1) + word).length > width) rows.push("");
    rows[rows.length - 1] += `${rows.at(-1) ? ", " : ""}${word}`;
  }
  return rows.length > lines ? [...rows.slice(0, lines), `… ${words.length} in all`] : rows;
};
// A uniform model's one choice, short enough to stand beside its mark.
const uniformName = (model) => {
  const rows = sitesByChoice(model).filter((row) => row.text !== "keep");
  const widths = [...new Set(Object.values(model.groups))].map((width) => width.replace(/width\((.*)\)/, "w$1"));
  return [...rows.map((row) => row.short), ...widths].join(" ");
};
const hoverText = (model, axis, tested) => {
  const [value, share] = figures(model, tested).values[axis.key] || [];
  const rows = [`<b>${escaped(model.id)}</b> ${escaped(KINDS[kindOf(model)].name)}`,
    `${scoreText(figures(model, tested).score)} · ${costText(axis, value)} (${shareText(share)} of baseline)`];
  for (const row of sitesByChoice(model)) {
    rows.push(`<b>${escaped(row.text)}</b> × ${row.sites.length}`);
    if (row.text !== "keep") rows.push(...wrapped(row.sites).map((line) => `  ${escaped(line)}`));
  }
  return [...rows, ...widthsInWords(model).map(escaped)].join("<br>");
};

const pointsOf = (axis, tested) => study.models.flatMap((model) => {
  const shown = figures(model, tested);
  const cost = shown && shown.values[axis.key];
  if (!cost || !known(shown.score)) return [];
  const [value, , low, high] = cost.map((v) => v * axis.factor);
  return [{ id: model.id, model, x: value, y: shown.score * study.score.factor, low: value - low, high: high - value }];
});

const limitLines = (axis) => {
  const line = { type: "line", line: { color: colour("warn"), width: 1.5, dash: "dash" } };
  const lines = [];
  if (known(axis.limit)) lines.push({ ...line, x0: axis.limit * axis.factor, x1: axis.limit * axis.factor, yref: "paper", y0: 0, y1: 1 });
  if (known(study.score.limit)) {
    const y = study.score.limit * study.score.factor;
    lines.push({ ...line, y0: y, y1: y, xref: "paper", x0: 0, x1: 1 });
  }
  return lines;
};
const limitLabels = (axis) => (known(axis.limit) ? [{
  x: axis.limit * axis.factor, y: 1, yref: "paper", yanchor: "top", xanchor: "right", xshift: -4, showarrow: false,
  text: `limit ${costText(axis, axis.limit)}`, font: { color: colour("warn"), size: 12 },
}] : []);

// Compact networks stand at their cost; their accuracy on this data is not known, so they have no height. They
// are stacked from the bottom so that their names do not cover each other.
const showCompact = document.getElementById("show-compact");
const compactMarks = (axis) => (showCompact && showCompact.checked ? study.compact : [])
  .filter((net) => known(net.values[axis.key])).sort((a, b) => a.values[axis.key] - b.values[axis.key]);
const compactTrace = (axis, most) => {
  const nets = compactMarks(axis).map((net, rank) => ({ name: escaped(net.name), x: net.values[axis.key] * axis.factor, y: 0.03 + 0.055 * (rank % 6) }));
  const widest = Math.max(most, ...nets.map((net) => net.x));
  return {
    x: nets.map((net) => net.x), y: nets.map((net) => net.y), yaxis: "y2", mode: "markers+text", name: "compact network (cost only)",
    text: nets.map((net) => net.name), textposition: nets.map((net) => (net.x > 0.6 * widest ? "middle left" : "middle right")),
    textfont: { size: 11, color: colour("soft") }, hovertemplate: "%{text}: cost only<extra></extra>", marker: { symbol: "arrow-up", size: 9, color: colour("soft") },
  };
};

// Whether a point may be part of the staircase: it missed no limit, nor breaks one that is drawn here.
const keepsLimits = (point, axis) => {
  const { limit, maximize, factor } = study.score;
  const score = point.y / factor;
  return !missed.has(point.id) && !(known(axis.limit) && point.x / axis.factor > axis.limit) && !(known(limit) && (maximize ? score < limit : score > limit));
};

// Labels of neighbours lie on opposite sides of their marks, the first and the last inside the picture.
const labelPlaces = (points) => {
  const order = points.map((_, i) => i).sort((a, b) => points[a].x - points[b].x);
  const places = [];
  order.forEach((i, rank) => { places[i] = rank % 2 ? "bottom right" : rank ? "top left" : "top right"; });
  return places;
};

const drawFront = () => {
  const axis = study.axes[Number(axisX.value)];
  const tested = axisY.value === "final";
  const points = pointsOf(axis, tested);
  const steps = skyline(points.filter((p) => p.model.state === "complete" && keepsLimits(p, axis)), study.score.maximize);
  const traces = [{
    x: steps.map((p) => p.x), y: steps.map((p) => p.y), mode: "lines", hoverinfo: "skip", showlegend: false,
    line: { shape: study.score.maximize ? "hv" : "vh", color: colour("accent"), width: 1.5 },
  }];
  KINDS.forEach((kind, i) => {
    const own = points.filter((p) => kindOf(p.model) === i);
    if (!own.length) return;
    const spread = i <= 4 && axis.unit === "ms";
    traces.push({
      x: own.map((p) => p.x), y: own.map((p) => p.y), customdata: own.map((p) => p.id), name: kind.name,
      mode: kind.name === "uniform" ? "markers+text" : "markers", marker: kind.mark(),
      text: own.map((p) => escaped(uniformName(p.model))), textposition: labelPlaces(own), textfont: { size: 11, color: colour("uniform") },
      hovertext: own.map((p) => hoverText(p.model, axis, tested)), hovertemplate: "%{hovertext}<extra></extra>",
      error_x: spread ? { type: "data", array: own.map((p) => p.high), arrayminus: own.map((p) => p.low), thickness: 1, width: 0, color: colour("other") } : undefined,
    });
  });
  if (compactMarks(axis).length) traces.push(compactTrace(axis, Math.max(0, ...points.map((p) => p.x))));
  const chosen = points.find((p) => p.id === state.selected);
  traces.push({
    x: chosen ? [chosen.x] : [], y: chosen ? [chosen.y] : [], mode: "markers", hoverinfo: "skip", showlegend: false,
    marker: { symbol: "circle-open", size: 22, color: colour("ring"), line: { width: 2.5 } },
  });
  const title = `${tested ? "test" : "validation"} ${axisTitle(study.score)}`;
  Plotly.react(frontPlot, traces, plotLayout(axisTitle(axis), title, {
    hovermode: "closest", shapes: limitLines(axis), annotations: limitLabels(axis), yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true }, uirevision: `${axisX.value} ${axisY.value}`,
  }), PLOT_CONFIG);
};

const startFront = () => {
  const order = (model) => [kindOf(model), model.number];
  const options = study.models.filter((m) => kindOf(m) <= 4)
    .sort((a, b) => order(a)[0] - order(b)[0] || order(a)[1] - order(b)[1]);
  for (const model of options) {
    pick.append(element("option", { value: model.id }, `${model.id} – ${KINDS[kindOf(model)].name}, ${scoreText(model.score)}`));
  }
  drawFront();
  frontPlot.on("plotly_click", (event) => {
    const id = event.points[0].customdata;
    if (id) select(id);
  });
  if (showCompact) showCompact.addEventListener("change", drawFront);
  axisX.addEventListener("change", drawFront);
  axisY.addEventListener("change", drawFront);
  pick.addEventListener("change", () => select(pick.value));
  onTheme(drawFront);
  onSelect((model) => {
    if (![...pick.options].some((option) => option.value === model.id)) {
      pick.append(element("option", { value: model.id }, `${model.id} – trial ${model.number}`));
    }
    pick.value = model.id;
    drawFront();
  });
  document.getElementById("reset-zoom").addEventListener("click", () => Plotly.relayout(frontPlot, { "xaxis.autorange": true, "yaxis.autorange": true }));
  document.getElementById("save-svg").addEventListener("click", () => Plotly.downloadImage(frontPlot, { format: "svg", filename: "front", width: 1000, height: 560 }));
};
