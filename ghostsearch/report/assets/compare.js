// The fronts of several studies on the same axes: one ready figure for each choice of axes.
const drawFronts = () => draw("fronts-plot", page.figures[$("axis-x").value][$("axis-y").value][$("relative").checked ? "relative" : "absolute"]);
["axis-x", "axis-y", "relative"].forEach((id) => $(id).addEventListener("change", drawFronts));
redraws.push(drawFronts);
setTheme(remembered() || "auto");
