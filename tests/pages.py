"""What a page owes everybody who reads it: enough contrast, a name for every control, nothing that moves unasked."""

from __future__ import annotations

from playwright.sync_api import Page

LEAST_CONTRAST = 4.5  # of text, WCAG 2.2 (1.4.3, level AA)

# Colours are read as the browser paints them, over the nearest ground that is not see-through. Pictures (SVG) have
# tests of their own; what is disabled needs no contrast.
_FAINT = """least => {
  const numbers = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const opacity = (colour) => { const parts = numbers(colour); return parts.length < 4 ? 1 : parts[3]; };
  const light = (colour) => {
    const [r, g, b] = numbers(colour).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (opacity(colour) === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    if (element.closest("svg, :disabled, option, script, noscript") || !element.checkVisibility()) continue;
    const words = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!words.length) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < least) found.push(`${words[0].textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return found;
}"""

_NAMELESS = """() => [...document.querySelectorAll("input, select, button, a, summary, progress, svg[role=img]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.labels?.length || e.ariaLabel || e.hasAttribute("aria-labelledby") || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 80))"""

_MOVING = """() => [...document.querySelectorAll("*")].filter((e) => {
  const style = getComputedStyle(e);
  return style.transitionDuration.split(", ").some((t) => parseFloat(t) > 0) || style.animationName !== "none"
    || style.scrollBehavior === "smooth";
}).map((e) => e.outerHTML.slice(0, 80))"""


def faults_of(page: Page) -> list[str]:
    """Look a page over, in light and in dark, as for somebody who wants nothing to move; empty if all is well."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        found += [f"too faint in {scheme}: {words}" for words in page.evaluate(_FAINT, LEAST_CONTRAST)]
    found += [f"without a name: {markup}" for markup in page.evaluate(_NAMELESS)]
    found += [f"moves: {markup}" for markup in page.evaluate(_MOVING)]
    if not page.evaluate(
        "document.documentElement.lang && document.title && document.querySelectorAll('h1').length === 1"
    ):
        found.append("no language, no title, or not one main heading")
    return found
