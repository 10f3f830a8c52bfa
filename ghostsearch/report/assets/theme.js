// Light, dark, or as the system says; remembered where the browser lets a local file remember.
const THEMES = ["auto", "light", "dark"];
const themeButton = document.getElementById("theme");
const redraws = [];
const onTheme = (redraw) => redraws.push(redraw);
const remembered = () => {
  try { return localStorage.getItem("ghostsearch-theme"); } catch { return null; }
};
const setTheme = (theme) => {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  themeButton.textContent = `Theme: ${theme}`;
  themeButton.setAttribute("aria-label", `Colour theme: ${theme === "auto" ? "automatic" : theme}; press to change`);
  themeButton.dataset.theme = theme;
  redraws.forEach((redraw) => redraw());
};
themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(themeButton.dataset.theme) + 1) % THEMES.length];
  try { localStorage.setItem("ghostsearch-theme", next); } catch { /* a local file may not remember */ }
  setTheme(next);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((redraw) => redraw()));
// Paper is light and narrow; the plots do not hear of its width by themselves.
const PAPER_WIDTH = 690;
const plotsTo = (size) => document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.relayout(plot, size));
addEventListener("beforeprint", () => {
  document.documentElement.dataset.theme = "light";
  redraws.forEach((redraw) => redraw());
  plotsTo({ autosize: false, width: PAPER_WIDTH });
});
addEventListener("afterprint", () => {
  plotsTo({ autosize: true, width: null });
  setTheme(themeButton.dataset.theme);
});

const plotLayout = (x, y, more = {}) => {
  const line = { gridcolor: colour("rule"), linecolor: colour("rule"), zeroline: false, ticks: "", automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: colour("ink") },
    margin: { l: 60, r: 12, t: 10, b: 50 },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("rule"), font: { color: colour("ink"), size: 12 }, align: "left" },
    xaxis: { ...line, title: { text: escaped(x), standoff: 10 } }, yaxis: { ...line, title: { text: escaped(y), standoff: 8 } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 } },
    ...more,
  };
};
const PLOT_CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset" };
