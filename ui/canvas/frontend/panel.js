// The HTML beside the canvas: tool bar, connections of the chosen node, and the hidden list that keyboards and screen
// readers use. All text from files goes in by textContent.

import { visibleSpace } from "./draw.js";

export const LISTED = 60; // inputs and outputs shown of the chosen node

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// "feature/12/5/2034" -> what a reader wants to know about it.
export function describe(payload, node) {
  const kind = payload.nodes.kind[node];
  const token = visibleSpace(payload.tokens[payload.nodes.x[node]] ?? "");
  const layer = payload.layers[payload.nodes.y[node]];
  if (payload.columns === "parts") return kind === "token" || kind === "logit" ? kind : `${kind}, ${layer}`;
  if (kind === "token") return `input token ${payload.nodes.x[node]}`;
  if (kind === "logit") return `output at “${token}”`;
  const index = payload.nodes.id[node].split("/")[3];
  return `${kind}${kind === "error" || index === "-1" ? "" : " " + index}, ${layer}, at “${token}”`;
}

export function percent(share) {
  const size = Math.abs(share) * 100;
  const digits = size >= 10 ? 0 : size >= 1 ? 1 : 2;
  return `${share < 0 ? "−" : "+"}${size.toFixed(digits)}%`;
}

export const GLYPHS = { confirmed: "✓", refuted: "✗", inconclusive: "?" };

// What an intervention said of a link, in a few words; `found` = {mark, predicted, measured}, or undefined.
export function said(found) {
  if (!found) return "untested";
  const numbers = [["predicted", found.predicted], ["measured", found.measured]].filter(([, value]) => value !== null);
  const told = numbers.map(([name, value]) => `${name} ${String(Number(value.toPrecision(3))).replace("-", "−")}`).join(", ");
  return `${GLYPHS[found.mark]} ${found.mark}${told ? `: ${told}` : ""}`;
}

export class Panel {
  constructor(host, actions) {
    this.actions = actions;
    this.host = host;
  }

  empty(payload) {
    this.host.replaceChildren(
      element("p", { class: "hint" }, "Click a node to see what feeds it and what it feeds, or a link to see how its effect travelled. ",
        "Arrow keys walk, Space pins, Escape lets go; drag moves, Ctrl + wheel zooms."),
      this.legend(payload),
    );
  }

  legend(payload) {
    const diff = payload.mode === "diff";
    const kinds = new Set(payload.nodes.kind);
    const has = (...wanted) => wanted.some((kind) => kinds.has(kind));
    const entry = (className, text) => element("li", {}, element("span", { class: `swatch ${className}` }), text);
    return element("ul", { class: "legend" },
      entry("line positive", diff ? "stronger in B" : "raises its target"),
      entry("line negative", diff ? "stronger in A" : "lowers its target"),
      ...(diff
        ? [entry("dot a", "node only in A"), entry("dot b", "node only in B"), entry("dot both", "node in both")]
        : [has("feature") ? entry("dot", "feature") : "", has("neuron") ? entry("dot", "neuron") : "",
          has("head") ? entry("triangle", "attention head") : "", has("mlp", "attn", "resid") ? entry("box", "MLP or another part") : "",
          has("error") ? entry("diamond", "error: what the transcoder missed") : "",
          has("token", "logit") ? entry("square", payload.columns === "parts" ? "embeddings, or the metric" : "input token or output") : ""]),
      ...(payload.marks
        ? [entry("mark confirmed", "confirmed: an intervention had the predicted effect"),
          entry("mark refuted", "refuted: dashed; it had not"),
          entry("mark inconclusive", "inconclusive: dotted")]
        : []));
  }

  // links: of one pair of nodes, strongest first; found: what an intervention said
  showLink(payload, names, links, found) {
    const [source, target] = [payload.links.s[links[0]], payload.links.t[links[0]]];
    const end = (title, node) => element("li", {}, element("button", { type: "button", "data-node": payload.nodes.id[node],
      onclick: () => this.actions.choose(node), onmouseenter: () => this.actions.hover(node), onmouseleave: () => this.actions.hover(-1) },
    element("span", { class: "where" }, title), element("span", { class: "name" }, names[node]), element("span", { class: "where" }, place(payload, node))));
    const close = element("button", { class: "plain", type: "button", "data-action": "clear", "aria-label": "Let go of this link",
      onclick: () => this.actions.choose(-1) }, "✕");
    const shares = links.map((link) => element("span", { class: `share ${payload.links.w[link] < 0 ? "negative" : "positive"}` },
      `${percent(payload.links.w[link])}${slotOf(payload, link)} `));
    const evidence = element("p", { class: "facts", "data-mark": found?.mark ?? "untested" });
    evidence.append(...(found
      ? [element("span", { class: `swatch mark ${found.mark}` }), ` ${said(found).slice(2)}`] : ["Untested: no intervention has cut this link."]));
    this.host.replaceChildren(
      element("header", {}, element("h3", {}, `${names[source]} → ${names[target]}`), element("span", { class: "buttons" }, close)),
      element("p", { class: "facts" }, ...shares, payload.mode === "diff" ? "B less A" : "of all that the target receives"),
      evidence,
      element("ol", { class: "ends" }, end("from", source), end("to", target)),
      this.legend(payload));
  }

  // inputs, outputs: [{link, node, w}] strongest first
  show(payload, names, node, pinned, inputs, outputs, tested) {
    const title = element("h3", {}, names[node]);
    const pin = element("button", { class: "pin", type: "button", "aria-pressed": String(pinned), "data-action": "pin",
      onclick: () => this.actions.pin(node) }, pinned ? "Unpin" : "Pin");
    const close = element("button", { class: "plain", type: "button", "data-action": "clear", "aria-label": "Let go of this node",
      onclick: () => this.actions.choose(-1) }, "✕");
    const act = payload.nodes.act[node];
    const facts = element("p", { class: "facts" }, describe(payload, node), act === null ? "" : ` · activation ${Number(act.toPrecision(3))}`);
    this.host.replaceChildren(
      element("header", {}, title, element("span", { class: "buttons" }, pin, close)),
      facts,
      this.list("Inputs", "share of all this node receives", payload, names, inputs, tested),
      this.list("Outputs", "share of what the target receives", payload, names, outputs, tested),
      this.legend(payload),
    );
  }

  list(title, note, payload, names, rows, tested) {
    const items = rows.slice(0, LISTED).map((row) => {
      const difference = payload.links.c
        ? ` (A ${row.a === null ? "–" : percent(row.a)}, B ${row.b === null ? "–" : percent(row.b)})` : "";
      const found = tested.get(row.link);
      return element("li", { class: "pair" },
        element("button", { type: "button", "data-node": payload.nodes.id[row.node], title: names[row.node] + difference,
          onclick: () => this.actions.choose(row.node),
          onmouseenter: () => this.actions.hover(row.node), onmouseleave: () => this.actions.hover(-1) },
          element("span", { class: `share ${row.w < 0 ? "negative" : "positive"}` }, percent(row.w)),
          element("span", { class: "name" }, names[row.node]),
          element("span", { class: "where" }, place(payload, row.node) + slotOf(payload, row.link))),
        element("button", { type: "button", class: `link ${found?.mark ?? ""}`, "data-link": row.link, title: `This link: ${said(found)}`,
          "aria-label": `The link with ${names[row.node]}, ${said(found)}`, onclick: () => this.actions.chooseLink(row.link) },
        found ? GLYPHS[found.mark] : "↝"));
    });
    const section = element("section", { "data-list": title.toLowerCase() },
      element("h4", {}, `${title} `, element("small", {}, `${rows.length} · ${note}`)));
    section.append(rows.length ? element("ol", {}, ...items) : element("p", { class: "hint" }, "none"));
    if (rows.length > LISTED) section.append(element("p", { class: "hint" }, `and ${rows.length - LISTED} weaker`));
    return section;
  }
}

function slotOf(payload, link) {
  const slot = payload.links.slot?.[link];
  return slot && slot !== "direct" ? ` · ${slot}` : "";
}

function place(payload, node) {
  const kind = payload.nodes.kind[node];
  return kind === "token" || kind === "logit" ? kind : payload.layers[payload.nodes.y[node]];
}

// One option per node, visually hidden: the graph as a list, for keyboards and screen readers.
export class NodeList {
  constructor(host, prefix) {
    this.host = host;
    this.prefix = prefix;
  }

  fill(payload, names) {
    const all = document.createDocumentFragment();
    payload.nodes.id.forEach((id, node) => {
      const option = document.createElement("div");
      option.setAttribute("role", "option");
      option.id = `${this.prefix}-${node}`;
      option.dataset.node = id;
      option.textContent = `${names[node]}, ${describe(payload, node)}, ${id}`;
      all.append(option);
    });
    this.host.replaceChildren(all);
    this.active = -1;
  }

  mark(node) {
    if (this.active >= 0) this.host.children[this.active]?.removeAttribute("aria-selected");
    this.active = node;
    if (node >= 0) {
      this.host.children[node].setAttribute("aria-selected", "true");
      this.host.setAttribute("aria-activedescendant", `${this.prefix}-${node}`);
    } else this.host.removeAttribute("aria-activedescendant");
  }
}
