// Where everything stands: token position across, layer up. Pure, no DOM; runs under plain node.

export const MARGIN = { left: 62, right: 18, top: 20, bottom: 58 };
const SPACING = 13; // wished distance between two nodes of a cell, px
const NARROWEST = 16; // a column without nodes, px

// Widths that fill `room`: each column its natural width and a part of what is left by `weight`; squeezed when short.
export function spread(natural, room, weight = natural.map(() => 1)) {
  const n = natural.length;
  if (!n) return [];
  const wanted = natural.reduce((a, b) => a + b, 0);
  if (wanted <= room) {
    const weights = weight.reduce((a, b) => a + b, 0) || 1;
    return natural.map((w, i) => w + ((room - wanted) * weight[i]) / weights);
  }
  const least = Math.min(NARROWEST, room / n);
  const excess = natural.map((w) => Math.max(0, w - least));
  const total = excess.reduce((a, b) => a + b, 0) || 1;
  return excess.map((e) => least + (e / total) * (room - least * n));
}

// payload -> {x, y: Float32Array by node, columns: [{left, width}], rows: [{top, height}]} in a width x height stage.
// Nodes of one (position, layer) cell fill short lines inside the cell, so that none hides another.
export function layout(payload, width, height) {
  const { x: column, y: row } = payload.nodes;
  const count = column.length;
  const columns = payload.tokens.length;
  const rows = payload.layers.length;
  const cells = new Map();
  for (let i = 0; i < count; i++) {
    const cell = column[i] * rows + row[i];
    const list = cells.get(cell);
    if (list) list.push(i);
    else cells.set(cell, [i]);
  }

  // Width follows the number of nodes, not the fullest cell: layer 0 is crowded everywhere, the last token on all layers.
  const nodes = new Array(columns).fill(0);
  for (const [cell, list] of cells) nodes[Math.floor(cell / rows)] += list.length;
  const roomAcross = Math.max(10, width - MARGIN.left - MARGIN.right);
  const natural = nodes.map((n) => (n ? Math.max(34, (Math.sqrt(n) + 2) * SPACING) : NARROWEST));
  const widths = spread(natural, roomAcross, nodes.map((n) => Math.sqrt(n) + 1));

  const perLine = widths.map((w) => Math.max(1, Math.floor((w - SPACING * 0.6) / SPACING)));
  const lines = new Array(rows).fill(1);
  for (const [cell, list] of cells) {
    const c = Math.floor(cell / rows);
    lines[cell % rows] = Math.max(lines[cell % rows], Math.ceil(list.length / perLine[c]));
  }
  const roomDown = Math.max(10, height - MARGIN.top - MARGIN.bottom);
  const weights = lines.map((n) => 1 + 0.55 * (n - 1));
  const weightSum = weights.reduce((a, b) => a + b, 0) || 1;
  const heights = weights.map((w) => (w / weightSum) * roomDown);

  const lefts = [];
  let at = MARGIN.left;
  for (const w of widths) {
    lefts.push(at);
    at += w;
  }
  const tops = [];
  at = MARGIN.top + roomDown;
  for (const h of heights) {
    at -= h;
    tops.push(at);
  }

  const x = new Float32Array(count);
  const y = new Float32Array(count);
  for (const [cell, list] of cells) {
    const c = Math.floor(cell / rows);
    const r = cell % rows;
    const across = Math.min(perLine[c], list.length);
    const down = Math.ceil(list.length / across);
    const stepX = Math.min(SPACING * 2.4, widths[c] / (across + 0.6));
    const stepY = Math.min(SPACING, heights[r] / (down + 0.5));
    list.forEach((node, k) => {
      const line = Math.floor(k / across);
      const inLine = Math.min(across, list.length - line * across);
      x[node] = lefts[c] + widths[c] / 2 + ((k % across) - (inLine - 1) / 2) * stepX;
      y[node] = tops[r] + heights[r] / 2 + (line - (down - 1) / 2) * stepY;
    });
  }
  return {
    x,
    y,
    columns: lefts.map((left, i) => ({ left, width: widths[i] })),
    rows: tops.map((top, i) => ({ top, height: heights[i] })),
  };
}
