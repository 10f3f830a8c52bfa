// The selected model in words, the baseline beside it, and the start of everything.
const detail = document.getElementById("detail");

const facts = (model) => {
  const list = element("dl");
  const add = (name, text) => list.append(element("dt", {}, name), element("dd", {}, text));
  add(`validation ${study.score.label}, as searched`, scoreText(model.score));
  if (model.final) {
    add(`validation ${study.score.label}, after final training`, scoreText(model.final.validation));
    add(`test ${study.score.label}, after final training`, scoreText(model.final.score));
  }
  for (const axis of study.axes) {
    const [value, share] = (model.final || model).values[axis.key] || [];
    add(axis.label, `${costText(axis, value)} (${shareText(share)})`);
  }
  return list;
};

const showDetail = (model) => {
  const choices = element("ul");
  for (const row of sitesByChoice(model)) {
    choices.append(element("li", {}, element("code", {}, row.text), ` × ${row.sites.length}`,
      row.text === "keep" ? null : element("div", { class: "soft mono" }, row.sites.join(", "))));
  }
  for (const text of widthsInWords(model)) choices.append(element("li", {}, element("code", {}, text)));
  const links = element("ul");
  for (const file of (study.files || {})[model.id] || []) {
    links.append(element("li", {}, element("a", { href: file.href }, file.name.split("/").at(-1)), ` ${withPrefix(file.size_bytes, "B")}`));
  }
  const broken = model.final ? model.final.breaches : [];
  detail.replaceChildren(...[
    element("h3", {}, element("span", { class: "mono" }, model.id)),
    element("p", { class: "soft" }, `${KINDS[kindOf(model)].name} · trial ${model.number} · proposed by ${model.origin}${model.reason ? ` · ${model.reason}` : ""}`),
    broken.length && model.id !== "baseline" ? element("p", {}, element("strong", { class: "missed" }, "missed"), `: ${broken.join("; ")}`) : null,
    facts(model), choices, links.childElementCount ? links : null,
  ].filter(Boolean));
};

const showBeside = (model) => {
  const chosen = byId.get(study.chosen);
  const columns = [...new Set([baseline, chosen, model])].filter(Boolean);
  const titles = columns.map((m) => `${m.id}${m === chosen && m !== baseline ? " (chosen)" : m === model && m !== baseline ? " (selected)" : ""}`);
  const head = element("tr", {}, element("td", {}), ...titles.map((text) => element("th", { scope: "col", class: "num" }, text)));
  const line = (name, of) => element("tr", {}, element("th", { scope: "row" }, name), ...columns.map((m) => element("td", { class: "num" }, of(m))));
  const rows = [line(`validation ${study.score.label}, as searched`, (m) => scoreText(m.score))];
  if (columns.some((m) => m.final)) {
    rows.push(line(`validation ${study.score.label}, after final training`, (m) => scoreText(m.final && m.final.validation)));
    rows.push(line(`test ${study.score.label}, after final training`, (m) => scoreText(m.final && m.final.score)));
  }
  for (const axis of study.axes) {
    rows.push(line(axis.label, (m) => {
      const [value, share, low, high] = (m.final || m).values[axis.key] || [];
      const spread = known(low) ? ` [${digits(low * 1e3)}, ${digits(high * 1e3)}]` : "";
      return `${costText(axis, value)}${spread}${m === baseline ? "" : ` · ${shareText(share)}`}`;
    }));
  }
  document.getElementById("beside").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
};

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-select]");
  if (button) select(button.dataset.select);
});
setTheme(remembered() || "auto");
onSelect(showDetail);
onSelect(showBeside);
startFront();
startStrips();
startLayerTimes();
startCharts();
startTrials();
select(byId.has(study.chosen) ? study.chosen : (baseline || study.models[0] || {}).id);
