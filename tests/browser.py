"""Headless Chromium, and what it finds wrong with a page at some width, by day or by night."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]

# Complaints of a page about itself; what is folded away is opened first.
LOOK = """
const faults = [], width = innerWidth;
const shown = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
const named = (element) => (element.closest("figure")?.id || element.tagName) + ": ";
document.querySelectorAll("details").forEach((details) => { details.open = true; });

const luminance = (rgb) => {
  const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const paper = (element) => {
  for (; element; element = element.parentElement) {
    const [r, g, b, alpha = 1] = channels(getComputedStyle(element).backgroundColor);
    if (alpha > 0.99) return [r, g, b];
  }
  return [255, 255, 255];
};
const contrast = (ink, ground) => {
  const [dark, light] = [luminance(channels(ink).slice(0, 3)), luminance(ground)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
};

const scrolls = document.scrollingElement.scrollWidth;
if (scrolls > width) faults.push(`the page scrolls: ${scrolls} > ${width}`);
for (const image of document.images)
  if (!image.complete || !image.naturalWidth) faults.push(named(image) + "image is missing");

const column = document.querySelector("article").getBoundingClientRect();
for (const figure of document.querySelectorAll("figure")) {
  const drawings = [...figure.querySelectorAll("svg, img")];
  if (drawings.length && !drawings.some((drawing) => shown(drawing) && drawing.getBoundingClientRect().height >= 20))
    faults.push(named(figure) + "figure is not visible");
}
for (const drawing of document.querySelectorAll("figure :is(svg, img)")) {
  const place = drawing.getBoundingClientRect();
  if (!shown(drawing)) continue;  // there is one for wide screens and one for narrow ones
  if (place.left < column.left - 1 || place.right > column.right + 1)
    faults.push(named(drawing) + "figure is wider than the column");
  const texts = [...drawing.querySelectorAll("text")];
  for (const text of texts) {
    const box = text.getBoundingClientRect();
    if (Math.min(box.left - place.left, place.right - box.right, box.top - place.top, place.bottom - box.bottom) < -4)
      faults.push(named(drawing) + `text is cut: ${text.textContent.trim()}`);
  }
  // Numbers in cells of heat maps have grounds of their own, so half of the texts will do.
  const legible = texts.filter((text) => contrast(getComputedStyle(text).fill, paper(drawing)) >= 4.5);
  if (2 * legible.length < texts.length) faults.push(named(drawing) + "figure is too dim");
}

const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const pale = new Set();
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("svg") || !shown(element)) continue;
  if (contrast(getComputedStyle(element).color, paper(element)) < 4.5) pale.add(element.tagName);
}
for (const tag of pale) faults.push(`text of ${tag} is too dim`);
return faults;
"""


class Browser:
    """Chromium, driven."""

    def __init__(self, driver):
        self.driver = driver

    def faults(self, path, *, width, scheme):
        """What is wrong with the page at ``path``: what it looks like, what it loads and what the console says."""
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        for log in ("browser", "performance"):
            self.driver.get_log(log)  # of the page before
        self.driver.get(path.as_uri())
        query = f"innerWidth === {width} && matchMedia('(prefers-color-scheme: {scheme})').matches"
        assert self.driver.execute_script(f"return {query}")
        faults = self.driver.execute_script(LOOK)
        faults += [f"console: {entry['message']}" for entry in self.driver.get_log("browser")]
        sent = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
        assert path.as_uri() in urls
        return faults + [f"loads {url}" for url in urls if url != path.as_uri() and not url.startswith("data:")]


def fail_or_skip(reason):
    """Skip what cannot be looked at here, or fail if ACCUMCHECK_BROWSER=required."""
    (pytest.fail if os.environ.get("ACCUMCHECK_BROWSER") == "required" else pytest.skip)(reason)


@contextmanager
def chromium(profile):
    """A browser with the fresh ``profile``; where none is installed, skips, or fails if ACCUMCHECK_BROWSER=required."""
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        fail_or_skip("no Chromium to look at the page with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
