// Interactive charts of pages and of the studio. In a page they replace drawings, which stay without script and in print.
"use strict";
// Draws a chart of `LineChart.data` into a box. Returns the uPlot; its `show(chart)` draws other data if they differ.
const drawChart = (() => {
  const css = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const dashes = {other0: [7, 4], other1: [2, 4], other2: [10, 3, 2, 3], other4: [12, 5], soft: [4, 3]};
  const text = value => value == null ? "–" : String(+value.toPrecision(4)).replace("-", "−");

  // Columns over the x of all lines: [x, then y, low and high of each line]. Equal x of a step are moved apart.
  const columns = (lines, width) => uPlot.join(lines.map(line => {
    const x = line.x.slice();
    for (let k = 1; k < x.length; k++) if (x[k] <= x[k - 1]) x[k] = x[k - 1] + 1e-7 * width;
    return line.low.length ? [x, line.y, line.low, line.high] : [x, line.y];
  }));

  const lonely = values => {
    const known = [...values.keys()].filter(k => values[k] !== undefined);
    return known.filter((k, at) =>
      values[k] != null && values[known[at - 1]] == null && values[known[at + 1]] == null);
  };

  const series = lines => lines.flatMap(line => {
    const own = {
      label: line.label, scale: "y", stroke: css(line.style), dash: line.dash ?? dashes[line.style],
      width: line.style === "world" ? 2.25 : 1.5,
      points: {show: true, size: 5, fill: css(line.style), width: 0,
               filter: line.points ? undefined : (u, at) => lonely(u.data[at])},
    };
    if (line.points) own.paths = () => null;
    const edge = {scale: "y", stroke: "transparent", points: {show: false}};
    return line.low.length ? [own, edge, {...edge}] : [own];
  });

  const bands = lines => {
    const found = [];
    let at = 1;
    for (const line of lines) {
      if (line.low.length) found.push({series: [at + 2, at + 1], fill: css(line.style) + "2b"});
      at += line.low.length ? 3 : 1;
    }
    return found;
  };

  const rules = chart => u => {
    const {top, height} = u.bbox, context = u.ctx;
    context.save();
    context.strokeStyle = css("soft");
    context.lineWidth = devicePixelRatio;
    for (const [k, at] of [chart.now].flat().entries()) { // the present is dotted, a time cursor is not
      if (at == null) continue;
      const x = u.valToPos(at, "x", true);
      context.setLineDash(k ? [] : [2 * devicePixelRatio, 4 * devicePixelRatio]);
      context.beginPath();
      context.moveTo(x, top), context.lineTo(x, top + height);
      context.stroke();
    }
    context.restore();
  };

  const shades = chart => u => {
    u.ctx.save();
    u.ctx.fillStyle = css("unclear") + "29";
    for (const [start, stop] of chart.gaps) {
      const from = u.valToPos(start, "x", true);
      u.ctx.fillRect(from, u.bbox.top, u.valToPos(stop, "x", true) - from, u.bbox.height);
    }
    u.ctx.restore();
  };

  // The values under the cursor, in the corner that the cursor is not in.
  const readout = u => {
    const at = u.cursor.idx, box = u.root.querySelector(".readout");
    box.hidden = at == null || u.cursor.left < 0;
    if (box.hidden) return;
    const last = data => { let k = at; while (k > 0 && data[k] === undefined) k--; return data[k]; };
    const named = u.series.map((one, k) => [one.label, u.data[k]]).slice(1).filter(([label]) => label);
    const parts = named.map(([label, data]) => `${named.length > 1 ? label + " " : ""}${text(last(data))}`);
    box.textContent = [text(u.data[0][at]) + ":", ...parts].join("  ");
    box.style[u.cursor.left > u.over.clientWidth / 2 ? "left" : "right"] = "0";
    box.style[u.cursor.left > u.over.clientWidth / 2 ? "right" : "left"] = "auto";
  };

  const axisWidth = (u, values, at) => {
    if (!values) return 40;
    u.ctx.font = u.axes[at].font[0];
    const least = u.root.closest(".panel") ? 56 : 0; // so that charts below each other have one time axis
    return Math.max(least, 14 + Math.max(...values.map(value => u.ctx.measureText(value || "").width)) / devicePixelRatio);
  };

  const equal = (a, b) => {
    if (a === b || !a || !b || typeof a !== "object" || typeof b !== "object") return a === b;
    if (Array.isArray(a)) return a.length === b.length && a.every((value, k) => equal(value, b[k]));
    return Object.keys({...a, ...b}).every(key => equal(a[key], b[key]));
  };
  const shape = chart => JSON.stringify(chart.lines.map(line => [line.label, line.style, line.low.length > 0]));

  return (box, first, onCursor) => {
    let chart = first;
    const axis = {stroke: css("soft"), font: "12px " + css("sans"), grid: {stroke: css("grid"), width: 1}, ticks: {show: false}, gap: 4};
    const fixed = first.ticks.length && {splits: () => chart.ticks.map(one => one[0]), values: () => chart.ticks.map(one => one[1])};
    const plain = (u, splits) => splits.map(one => one == null ? "" : text(one));
    const options = {
      width: box.clientWidth, height: box.clientHeight, legend: {show: false}, padding: [8, 12, 0, 0],
      cursor: {points: {size: 6}, drag: {x: false, y: false}, sync: box.closest(".panel") ? {key: "panel"} : undefined},
      scales: {x: {time: false, range: () => chart.x}, y: {range: () => chart.y, distr: chart.log ? 3 : 1}},
      series: [{}, ...series(chart.lines)], bands: bands(chart.lines),
      axes: [
        {...axis, scale: "x", size: chart.bare ? 6 : 30, gap: 9, space: 60, values: chart.bare ? () => [] : plain},
        {...axis, scale: "y", size: axisWidth, space: 28, values: plain, ...fixed},
      ],
      hooks: {
        drawClear: [u => shades(chart)(u)], draw: [u => rules(chart)(u)],
        setCursor: [u => { readout(u); if (onCursor) onCursor(u); }],
      },
    };
    const data = () => columns(chart.lines, chart.x[1] - chart.x[0] || 1);
    const drawn = new uPlot(options, data(), box);
    const corner = document.createElement("div");
    corner.className = "readout";
    corner.hidden = true;
    drawn.over.append(corner);
    drawn.fits = other => shape(other) === shape(chart);
    drawn.show = other => {
      if (equal(other, chart)) return;
      chart = other;
      drawn.setData(data());
    };
    return drawn;
  };
})();
{
  const boxes = new Map();
  const draw = (box, chart) => drawChart(box, chart);
  const watch = new ResizeObserver(entries => entries.forEach(({target: box}) => {
    if (!box.clientWidth) return; // folded away
    if (boxes.get(box)) return boxes.get(box).setSize({width: box.clientWidth, height: box.clientHeight});
    const chart = JSON.parse(box.parentElement.querySelector("script").textContent);
    if (!chart.lines.length) return;
    box.classList.add("live");
    boxes.set(box, draw(box, chart));
  }));
  document.querySelectorAll("figure > script[type='application/json']").forEach(data => {
    const box = data.parentElement.querySelector(".plot");
    boxes.set(box, null);
    watch.observe(box);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => boxes.forEach((drawn, box) => {
    if (!drawn) return;
    drawn.destroy();
    boxes.set(box, draw(box, JSON.parse(box.parentElement.querySelector("script").textContent)));
  }));
}
