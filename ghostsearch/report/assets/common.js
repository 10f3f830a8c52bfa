// Theme and drawing: figures come from Python in the light palette; the dark one replaces its colours.
const $ = (id) => document.getElementById(id);
const page = JSON.parse($("data").textContent);
const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
};

const THEMES = ["auto", "light", "dark"];
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const redraws = [];
const redraw = () => redraws.forEach((again) => again());
const remembered = () => {
  try { return localStorage.getItem("ghostsearch-theme"); } catch { return null; }
};
const setTheme = (theme) => {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const button = $("theme");
  button.textContent = `Theme: ${theme}`;
  button.setAttribute("aria-label", `Colour theme: ${theme === "auto" ? "automatic" : theme}; press to change`);
  button.dataset.theme = theme;
  redraw();
};
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf($("theme").dataset.theme) + 1) % THEMES.length];
  try { localStorage.setItem("ghostsearch-theme", next); } catch { /* a local file may not remember */ }
  setTheme(next);
});
systemDark.addEventListener("change", redraw);

const themed = (figure) => {
  const theme = document.documentElement.dataset.theme;
  const dark = theme === "dark" || (!theme && systemDark.matches);
  return JSON.parse(JSON.stringify(figure).replace(/#[0-9a-f]{6}/g, (colour) => (dark && page.dark[colour]) || colour));
};
const draw = (id, figure) => {
  const { data, layout } = themed(figure);
  Plotly.react($(id), data, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
  return $(id);
};

// Paper is light and narrow; plots do not notice the print width by themselves.
const plotsTo = (size) => document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.relayout(plot, size));
addEventListener("beforeprint", () => {
  document.documentElement.dataset.theme = "light";
  redraw();
  plotsTo({ autosize: false, width: 690 });
});
addEventListener("afterprint", () => {
  plotsTo({ autosize: true, width: null });
  setTheme($("theme").dataset.theme);
});
