"""Take the pictures of the documentation again: `python docs/screenshots.py --home HOME [--out FOLDER] [--only PAGE] [--all]`.

Starts the pages over HOME, opens its newest circuit, chooses the node that feeds the answer most and saves `circuit.png`. With
--all every page in light and dark, 1400 and 800 px wide. Needs the extras [ui] and [dev] and Chromium (CHROMIUM names it).
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

from atlas import Atlas
from ui.run import launch

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def addresses(home: Path, circuit: str | None, label: str) -> dict[str, str]:
    """Page name -> address below the root, with something to see on each."""
    with Atlas.open(home) as atlas:
        rows = atlas.circuits(limit=1)
        if not rows:
            raise SystemExit(f"{home} holds no circuit; run `atlas demo --no-ui` with ATLAS_HOME={home} first.")
        shown = atlas.load(circuit or rows[0].id)
        detail = atlas.show(shown.id)
        labels = atlas.node_labels(shown.id)
        features = shown.nodes.is_kind("feature").nonzero()[0].tolist()
        best = max(
            features,
            key=lambda row: (label in labels.get(row, ""), row in labels, float(shown.nodes.influence[row])),
            default=0,
        )
        token = next((text for text in reversed(shown.tokens[:-1]) if len(text.strip()) > 2), "the")
        answer = detail.record.targets[0].what if detail.record.targets else ""
        verified = next((row.circuit for row in atlas.measurements(circuit, kind="verification")), None)
        patched = next(
            (
                row.id
                for row in atlas.circuits(limit=None)
                if atlas.show(row.id).record.method.name == "activation patching"
            ),
            None,
        )
        batch = next((job.batch for job in atlas.jobs() if job.batch), None)
        given = {
            "home": ("", {}),
            "search": ("search", {"q": labels.get(best, "city")}),
            "feature": ("feature", {"feature": shown.feature_key(best) or ""}),
            "circuit": ("circuit", {"circuit": shown.id, "node": shown.keys[best]}),
            "paths": (
                "paths",
                {"from": f"token:{token.strip()}", "to": f"logit:{answer.strip()}", "circuit": shown.id},
            ),
            "compare": ("compare", {}),
            "cypher": ("cypher", {}),
            "trace": ("trace", {"batch": batch} if batch else {}),
            "jobs": ("jobs", {}),
            "news": ("news", {}),
        }
        if verified:
            given["evidence"] = ("circuit", {"circuit": verified, "tab": "evidence"})
        if patched:
            given["patching"] = ("circuit", {"circuit": patched})
    return {name: f"{page}?{urlencode(query)}" if query else page for name, (page, query) in given.items()}


def settle(page: Page, name: str) -> None:
    page.locator("[data-test-script-state=notRunning] .ca-title").wait_for(timeout=120_000)
    if name in {"evidence", "patching"}:
        page.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg.marks").first.wait_for()
    if name in {"circuit", "compare", "evidence"}:
        page.locator(".ca[data-ready=yes], .ca-alert").first.wait_for(timeout=60_000)
    if name == "cypher":
        page.get_by_role("button", name="Run", exact=True).click()
    if name == "paths":
        page.locator(".ca-chain, .ca-note, .ca-alert").first.wait_for(timeout=60_000)
    page.locator("[data-test-script-state=notRunning]").wait_for(timeout=120_000)
    if name == "evidence":
        page.get_by_role("tab", name="Evidence").evaluate("tab => tab.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(1200)


def views(browser: Browser, every: bool, height: int) -> Iterator[tuple[str, Page]]:
    for scheme in ("light", "dark") if every else ("light",):
        for width in (1400, 800) if every else (1400,):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
            yield (f"-{scheme}-{width}" if every else ""), context.new_page()
            context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--circuit", help="id or name; default: the newest")
    parser.add_argument("--label", default="", help="choose the strongest node with this in its label")
    parser.add_argument("--only", help="one page")
    parser.add_argument("--all", action="store_true", help="every page, light and dark, wide and narrow")
    parser.add_argument("--height", type=int, default=1000, help="of the window, px")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pages = addresses(given.home, given.circuit, given.label)
    if given.only or not given.all:
        only = given.only or "circuit"
        if only not in pages:
            raise SystemExit(f"{given.home} has nothing to see on {only}; pages: {', '.join(pages)}.")
        pages = {only: pages[only]}
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    server, url = launch(open_browser=False, home=given.home)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            for suffix, page in views(browser, given.all, given.height):
                for name, address in pages.items():
                    page.goto(f"{url}/{address}")
                    settle(page, name)
                    page.screenshot(path=given.out / f"{name}{suffix}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
