// One pixel inside the fragment that holds the card: carries the choice from the canvas to Python and the view back, so
// that a click reruns that fragment only and never resends the graph.

const hub = (window.circuitAtlas ??= { canvases: {}, bridges: {}, views: {} });

export default function ({ data, setStateValue }) {
  const { slot, view } = data;
  const send = (selection) => setStateValue("selection", selection);
  hub.bridges[slot] = send;
  hub.views[slot] = view;
  hub.canvases[slot]?.receive(view);
  return () => {
    if (hub.bridges[slot] === send) delete hub.bridges[slot];
  };
}
