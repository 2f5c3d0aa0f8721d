// Links in a page's HTML lead to other pages without loading everything again: the address is changed and Streamlit is told
// as if the reader had gone back or forth. Everything else (new tab, another site, /auth) stays the browser's.
if (!window.circuitAtlasFollows) {
  window.circuitAtlasFollows = true;
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest(".stHtml a[href]") : null;
    if (!link || link.target || !/^[a-z]+([?]|$)/.test(link.getAttribute("href"))) return;
    event.preventDefault();
    history.pushState(null, "", link.href);
    dispatchEvent(new PopStateEvent("popstate"));
    scrollTo(0, 0);
  });
}
