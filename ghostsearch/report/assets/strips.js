// What each layer became: one strip a model, one cell a site.
const SVG = "http://www.w3.org/2000/svg";
const strips = document.getElementById("strips");
const CELL = 20;
const HEIGHT = 30;

const svgElement = (tag, attributes) => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

const cellTitle = (model, i) => {
  const site = study.sites[i];
  const kept = model.widths ? model.widths[i] : 1;
  const width = kept < 1 ? `, ${Math.round(kept * site.out)} of ${site.out} channels` : `, ${site.out} channels`;
  return `${site.path}: ${study.choices[model.choices[i]].text}${width} (${site.kind}, ${withPrefix(site.macs, "MACs")} before)`;
};

const stripPicture = (model) => {
  const svg = svgElement("svg", { viewBox: `0 0 ${CELL * study.sites.length} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  study.sites.forEach((site, i) => {
    const kept = model.widths ? model.widths[i] : 1;
    const cell = svgElement("g", {});
    const title = svgElement("title", {});
    title.textContent = cellTitle(model, i);
    cell.append(title);
    if (kept < 1) cell.append(svgElement("rect", { class: "full", x: CELL * i + 1, y: 0.5, width: CELL - 2, height: HEIGHT - 1 }));
    cell.append(svgElement("rect", {
      x: CELL * i + 1, y: HEIGHT * (1 - kept), width: CELL - 2, height: HEIGHT * kept, fill: study.choices[model.choices[i]].colour,
    }));
    svg.append(cell);
  });
  return svg;
};

const stripRow = (model) => {
  const axis = study.axes[0];
  const shown = model.final || model;
  const [value, share] = (axis && shown.values[axis.key]) || [];
  const label = element("span", { class: "name" }, element("b", {}, model.id), ` ${KINDS[kindOf(model)].name}`, element("br"),
    element("span", { class: "soft" }, `${scoreText(shown.score)} · ${axis ? costText(axis, value) : ""} (${shareText(share)})`));
  const words = sitesByChoice(model).map((row) => `${row.text} on ${row.sites.length} sites`).join(", ");
  const row = element("button", { type: "button", class: "strip", "data-strip": model.id, "aria-pressed": "false",
    "aria-label": `Select model ${model.id}: ${words}` }, label, stripPicture(model));
  row.addEventListener("click", () => select(model.id));
  return row;
};

const MAX_STRIPS = 24;
const startStrips = () => {
  const legend = document.getElementById("legend");
  for (const choice of study.choices) {
    legend.append(element("li", {}, element("i", { style: `background:${choice.colour}`, "aria-hidden": "true" }), element("code", {}, choice.text)));
  }
  if (!study.sites.length) {
    strips.append("The study holds no site to draw.");
    return;
  }
  strips.style.setProperty("--strip-width", `${study.sites.length * 6}px`);
  strips.style.setProperty("--strip-most", `${study.sites.length * 64}px`);
  const rows = study.models.filter((m) => kindOf(m) <= 4).sort((a, b) => (b.score - a.score) * (study.score.maximize ? 1 : -1));
  const shown = rows.slice(0, MAX_STRIPS);
  shown.forEach((model) => strips.append(stripRow(model)));
  onSelect((model) => {
    strips.querySelectorAll("[data-extra]").forEach((row) => row.remove());
    if (!shown.includes(model)) {
      const extra = stripRow(model);
      extra.dataset.extra = "yes";
      strips.append(extra);
    }
    strips.querySelectorAll("[data-strip]").forEach((row) => row.setAttribute("aria-pressed", String(row.dataset.strip === model.id)));
  });
};
