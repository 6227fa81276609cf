// Keeps a diagram readable at every zoom: micro-batches are written on the bars they fit on, and in a dense diagram,
// drawn as filled paths with a point on each bar, real bars replace the points once few enough are in sight.
function followZoom(plot) {
  const most = 3000, digitPx = 6.5, padPx = 4;
  const MICROBATCH = 1, START = 2, END = 3, DURATION = 4;
  const withRole = (role) => plot.data.flatMap((trace, index) => (trace.meta?.role === role ? [index] : []));
  const bars = withRole("bars"), points = withRole("points"), zooms = withRole("zoom");
  const rowsOf = (index) => plot._fullData[index].customdata;
  let largest = 0;
  for (const index of [...bars, ...points]) for (const row of rowsOf(index)) largest = Math.max(largest, row[MICROBATCH]);
  const labelPx = padPx + digitPx * String(largest).length;
  const label = (row) => {
    const axis = plot._fullLayout.xaxis, pxPerUnit = axis._length / (axis.range[1] - axis.range[0]);
    return row[MICROBATCH] < 0 || row[DURATION] * pxPerUnit < labelPx ? "" : String(row[MICROBATCH]);
  };
  const write = () => Plotly.restyle(plot, { text: bars.map((index) => Array.from(rowsOf(index), label)) }, bars);
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
      return few ? inside[place].map((at) => value(trace.customdata[at], trace, at)) : [];
    });
    Plotly.restyle(plot, { hoverinfo: few ? "skip" : "all" }, points);
    Plotly.restyle(plot, {
      y: pick((row, trace, at) => trace.y[at]),
      base: pick((row) => row[START]),
      x: pick((row) => row[DURATION]),
      customdata: pick((row) => Array.from(row)),
      text: pick(label),
      hovertext: pick((row, trace, at) => (Array.isArray(trace.hovertext) ? trace.hovertext[at] : "")),
    }, zooms);
  };
  const follow = points.length ? refine : write;
  plot.on("plotly_relayout", follow);
  follow();
}
