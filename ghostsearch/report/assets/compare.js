// The fronts of several studies on the same axes.
const comparison = JSON.parse(document.getElementById("studies").textContent);
const axisX = document.getElementById("axis-x");
const axisY = document.getElementById("axis-y");
const relative = document.getElementById("relative");
const plot = document.getElementById("fronts-plot");
const MARKS = [["circle", "accent"], ["diamond", "uniform"], ["square", "ring"], ["triangle-up", "ink"]];

comparison.axes.forEach((axis, i) => axisX.append(element("option", { value: i }, axis.label)));
axisY.append(element("option", { value: "search" }, `validation ${comparison.score.label}, as searched`));
if (comparison.studies.some((study) => study.models.some((model) => model.final))) {
  axisY.append(element("option", { value: "final" }, `test ${comparison.score.label}, after final training`));
  axisY.value = "final";
}

const pointsOf = (study, axis, tested) => study.models.flatMap((model) => {
  const shown = tested ? model.final : model;
  const [value, share] = (shown && shown.values[axis.key]) || [];
  const x = relative.checked ? share * 100 : value * axis.factor;
  return shown && known(value) && known(shown.score) ? [{ id: model.id, x, y: shown.score * comparison.score.factor, value, share }] : [];
});

const draw = () => {
  const axis = comparison.axes[Number(axisX.value)];
  const tested = axisY.value === "final";
  if (!axis) return;
  const traces = comparison.studies.flatMap((study, i) => {
    const [symbol, tone] = MARKS[i % MARKS.length];
    const points = pointsOf(study, axis, tested);
    const ends = { baseline: points.filter((p) => p.id === "baseline"), others: points.filter((p) => p.id !== "baseline") };
    const steps = skyline(points, comparison.score.maximize);
    const marks = (own, more) => ({
      x: own.map((p) => p.x), y: own.map((p) => p.y), mode: "markers", hovertemplate: "%{hovertext}<extra></extra>",
      hovertext: own.map((p) => `<b>${escaped(study.name)}</b> ${escaped(p.id)}<br>${p.y.toFixed(2)} ${comparison.score.unit} · ${costText(axis, p.value)} (${shareText(p.share)} of baseline)`),
      ...more,
    });
    return [
      { x: steps.map((p) => p.x), y: steps.map((p) => p.y), mode: "lines", hoverinfo: "skip", showlegend: false, line: { shape: comparison.score.maximize ? "hv" : "vh", color: colour(tone), width: 1.5 } },
      marks(ends.others, { name: escaped(study.name), marker: { symbol, size: 10, color: colour(tone) } }),
      marks(ends.baseline, { name: `${escaped(study.name)}, baseline`, marker: { symbol: `${symbol}-open`, size: 13, color: colour(tone), line: { width: 2.5 } } }),
    ];
  });
  const title = relative.checked ? `${axis.label} (% of the study's baseline)` : axisTitle(axis);
  Plotly.react(plot, traces, plotLayout(title, `${tested ? "test" : "validation"} ${axisTitle(comparison.score)}`, { hovermode: "closest" }), PLOT_CONFIG);
};

[axisX, axisY, relative].forEach((control) => control.addEventListener("change", draw));
onTheme(draw);
setTheme(remembered() || "auto");
