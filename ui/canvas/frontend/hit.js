// Which node or link is meant: by the pointer, or by an arrow key. Pure, no DOM.

// Nearest node within `reach` px of (px, py) on screen, -1 when none. view = {k, tx, ty}.
export function nodeAt(place, view, px, py, reach, shown) {
  let best = -1;
  let least = reach * reach;
  for (let i = 0; i < place.x.length; i++) {
    if (shown && !shown[i]) continue;
    const dx = place.x[i] * view.k + view.tx - px;
    const dy = place.y[i] * view.k + view.ty - py;
    const distance = dx * dx + dy * dy;
    if (distance <= least) {
      least = distance;
      best = i;
    }
  }
  return best;
}

// The nearest node in the direction of an arrow key; distance sideways counts three times. Stays where it is at a rim.
export function step(place, from, key, shown) {
  const [dirX, dirY] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] || [0, 0];
  let best = from;
  let least = Infinity;
  for (let i = 0; i < place.x.length; i++) {
    if (i === from || (shown && !shown[i])) continue;
    const dx = place.x[i] - place.x[from];
    const dy = place.y[i] - place.y[from];
    const ahead = dx * dirX + dy * dirY;
    if (ahead <= 0.5) continue;
    const cost = ahead + 3 * Math.abs(dx * dirY + dy * dirX);
    if (cost < least) {
      least = cost;
      best = i;
    }
  }
  return best;
}

// Where a link is drawn, at u = 0 (its source) to 1 (its target): [x, y] on the stage. `draw.js` paints the same curve.
export function pointOn(place, source, target, u, curved) {
  const [x0, y0, x1, y1] = [place.x[source], place.y[source], place.x[target], place.y[target]];
  if (!curved) return [x0 + (x1 - x0) * u, y0 + (y1 - y0) * u];
  const [ax, ay, bx, by] = handles(x0, y0, x1, y1);
  const v = 1 - u;
  const mix = (a, b, c, d) => v * v * v * a + 3 * v * v * u * b + 3 * v * u * u * c + u * u * u * d;
  return [mix(x0, ax, bx, x1), mix(y0, ay, by, y1)];
}

const BEND = 0.45; // of the height between both ends: how far a curve's handles stand off
const FLAT = 6; // px; a link within a row goes over the nodes between its ends and not through them
const PIECES = 14; // straight pieces that stand for a curve

// The handles of a link's curve: [x, y] of the source's and of the target's.
export function handles(x0, y0, x1, y1) {
  if (Math.abs(y1 - y0) > FLAT) return [x0, y0 + (y1 - y0) * BEND, x1, y1 - (y1 - y0) * BEND];
  const lift = Math.min(46, 10 + Math.abs(x1 - x0) * 0.12);
  return [x0 + (x1 - x0) * 0.2, y0 - lift, x1 - (x1 - x0) * 0.2, y1 - lift];
}

function squaredToSegment(px, py, [x0, y0], [x1, y1]) {
  const dx = x1 - x0;
  const dy = y1 - y0;
  const along = Math.min(1, Math.max(0, ((px - x0) * dx + (py - y0) * dy) / (dx * dx + dy * dy || 1)));
  return (px - x0 - along * dx) ** 2 + (py - y0 - along * dy) ** 2;
}

// The link drawn nearest to (px, py) on screen, at most `reach` px away, -1 when none. Of equally near ones the first of `links`.
export function linkAt(place, ends, view, px, py, reach, links, curved) {
  const x = (px - view.tx) / view.k;
  const y = (py - view.ty) / view.k;
  const r = reach / view.k;
  let best = -1;
  let least = r * r;
  for (const link of links) {
    const a = ends.s[link];
    const b = ends.t[link];
    const [x0, y0, x1, y1] = [place.x[a], place.y[a], place.x[b], place.y[b]];
    const above = curved && Math.abs(y1 - y0) <= FLAT ? handles(x0, y0, x1, y1)[1] : y0;
    if (x < Math.min(x0, x1) - r || x > Math.max(x0, x1) + r || y < Math.min(y0, y1, above) - r || y > Math.max(y0, y1) + r) continue;
    const pieces = curved ? PIECES : 1;
    let from = [x0, y0];
    for (let i = 1; i <= pieces; i++) {
      const to = pointOn(place, a, b, i / pieces, curved);
      const distance = squaredToSegment(x, y, from, to);
      if (distance < least) {
        least = distance;
        best = link;
      }
      from = to;
    }
  }
  return best;
}
