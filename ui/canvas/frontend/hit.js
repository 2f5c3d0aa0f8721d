// Which node is meant: by the pointer, or by an arrow key. Pure, no DOM.

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
