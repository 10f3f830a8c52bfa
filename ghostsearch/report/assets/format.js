// Making elements and formatting figures: pure helpers.
const NONE = "–";

const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
};
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const digits = (value) => {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 0.9995) return String(Number(value.toPrecision(3)));
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
};
const withPrefix = (value, unit) => {
  for (const [factor, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= factor) return `${digits(value / factor)} ${prefix}${unit}`.trim();
  }
  return `${digits(value)} ${unit}`.trim();
};
const known = (value) => value !== null && value !== undefined;
const costText = (axis, value) => {
  if (!known(value)) return NONE;
  if (axis.unit === "ms") return `${digits(value * 1e3)} ms`;
  return withPrefix(value, axis.unit === "MB" ? "B" : "");
};
const shareText = (value) => (known(value) ? `${(value * 100).toFixed(value < 0.0995 ? 1 : 0)} %` : NONE);
const axisTitle = (axis) => (axis.unit ? `${axis.label} (${axis.unit})` : axis.label);
// Plotly's hover text is a small HTML of its own.
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

// The staircase: of the front's models, those that no other beats on these two axes.
const skyline = (points, maximize) => {
  const sign = maximize ? 1 : -1;
  let best = -Infinity;
  return [...points].sort((a, b) => a.x - b.x || sign * (b.y - a.y)).filter((point) => {
    if (sign * point.y <= best) return false;
    best = sign * point.y;
    return true;
  });
};
