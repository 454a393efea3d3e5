"use strict";
// Draws every chart of the page in the colours of its stylesheet, light, dark or printed.
(() => {
  const colour = (name) => `var(--${name})`;
  const config = () => {
    const text = colour("text"), quiet = colour("quiet"), line = colour("line");
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: line },
      axis: { labelColor: text, titleColor: text, gridColor: line, domainColor: quiet,
              tickColor: quiet, titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12,
              labelSeparation: 6 },
      axisX: { labelBound: true },
      legend: { labelColor: text, titleColor: text, labelFontSize: 12 },
      range: { category: [colour("pick"), colour("pool"), colour("random")] },
      mark: { color: colour("pick") },
      rule: { color: quiet },
    };
  };
  const options = {
    actions: false, ast: true, renderer: "svg", config: config(),
    loader: { load: () => Promise.reject(new Error("a report loads nothing")) },
  };
  for (const source of document.querySelectorAll("script.chart")) {
    const place = source.previousElementSibling;
    vegaEmbed(place, JSON.parse(source.textContent), options)
      .then(() => place.classList.add("drawn"))
      .catch((error) => console.error(`${place.id}: ${error}`));
  }
  const unfolded = [];
  addEventListener("beforeprint", () => { // what is folded would be missing on paper
    for (const each of document.querySelectorAll("details:not([open])")) {
      each.open = true;
      unfolded.push(each);
    }
  });
  addEventListener("afterprint", () => {
    for (const each of unfolded.splice(0)) each.open = false;
  });
})();
