// Keeps a diagram readable at every zoom: micro-batches are written on the bars they fit on, and in a dense diagram,
// drawn as filled paths with a point on each bar, real bars replace the points once few enough are in sight.
function followZoom(plot) {
  const most = 3000, digit = 0.58, padPx = 2, smallestPx = 7;
  const MICROBATCH = 1, START = 2, END = 3, DURATION = 4;
  const withRole = (role) => plot.data.flatMap((trace, index) => (trace.meta?.role === role ? [index] : []));
  const bars = withRole("bars"), points = withRole("points"), zooms = withRole("zoom");
  const rowsOf = (index) => plot._fullData[index].customdata;
  const ops = [...bars, ...points].flatMap((index) => Array.from(rowsOf(index))).filter((row) => row[MICROBATCH] >= 0);
  const digits = String(ops.reduce((largest, row) => Math.max(largest, row[MICROBATCH]), 0)).length;
  const typical = ops.map((row) => row[DURATION]).sort((a, b) => a - b)[ops.length >> 1];

  const fitsPx = (duration) => {
    const axis = plot._fullLayout.xaxis;
    return ((duration * axis._length) / (axis.range[1] - axis.range[0]) - padPx) / (digit * digits);
  };
  const fontPx = (index) => Math.max(smallestPx, Math.min(plot.data[index].meta.mostPx, Math.floor(fitsPx(typical))));
  const labels = (rows, px) =>
    Array.from(rows, (row) => (row[MICROBATCH] < 0 || fitsPx(row[DURATION]) < px ? "" : String(row[MICROBATCH])));

  const write = () => Plotly.restyle(plot, {
    text: bars.map((index) => labels(rowsOf(index), fontPx(index))),
    "insidetextfont.size": bars.map(fontPx),
  }, bars);

  let refined = false;
  const refine = () => {
    const [from, to] = plot._fullLayout.xaxis.range;
    const inside = points.map((index) => {
      const rows = rowsOf(index), found = [];
      for (let at = 0; at < rows.length; at++) if (rows[at][END] > from && rows[at][START] < to) found.push(at);
      return found;
    });
    const few = inside.reduce((sum, found) => sum + found.length, 0) <= most;
    if (!few && !refined) return;
    refined = few;
    const pick = (value) => points.map((index, place) => {
      const trace = plot._fullData[index];
      return few ? inside[place].map((at) => value(trace, at)) : [];
    });
    const rows = pick((trace, at) => Array.from(trace.customdata[at]));
    Plotly.restyle(plot, { hoverinfo: few ? "skip" : "all" }, points);
    Plotly.restyle(plot, {
      y: pick((trace, at) => trace.y[at]),
      base: rows.map((some) => some.map((row) => row[START])),
      x: rows.map((some) => some.map((row) => row[DURATION])),
      customdata: rows,
      text: rows.map((some, place) => labels(some, fontPx(zooms[place]))),
      "insidetextfont.size": zooms.map(fontPx),
      hovertext: pick((trace, at) => (Array.isArray(trace.hovertext) ? trace.hovertext[at] : "")),
    }, zooms);
  };

  const follow = points.length ? refine : write;
  plot.on("plotly_relayout", follow);
  follow();
}
