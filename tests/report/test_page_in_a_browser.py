"""The page of a comparison in a headless Chromium, wide and narrow, light and dark: `make pages` installs what this needs.

SPARSE_EXT_BROWSER=required: a missing browser fails, and does not skip.
"""

import os
import re
import shutil
from itertools import combinations

import pytest
from variants import VARIANTS

REQUIRED = os.environ.get("SPARSE_EXT_BROWSER") == "required"
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTHS, SCHEMES = (1200, 600), ("light", "dark")

# What a page looks like: sizes, the boxes of all texts in plots, and the contrast of all texts.
LOOK = """() => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => numbers(color).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor, parts = numbers(color);
      if (parts.length < 4 || parts[3] > 0.5) return color;
    }
  };
  const contrast = element => {
    const style = getComputedStyle(element), color = element.closest("svg") ? style.fill : style.color;
    const [low, high] = [light(color), light(behind(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const box = element => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const said = element => [...element.childNodes].some(node => node.nodeType == 3 && node.data.trim());
  const texts = [...document.body.querySelectorAll("*")].filter(element => said(element) && !element.matches("svg > title"));
  const words = (plot, kind) => [...plot.querySelectorAll(`g.${kind} text`)].map(text => text.textContent);
  return {
    width: document.documentElement.scrollWidth,
    heading: document.querySelector("h1, h2, h3").textContent,
    contrast: texts.map(text => [contrast(text), text.tagName, text.textContent.trim().slice(0, 40)]),
    size: texts.map(text => parseFloat(getComputedStyle(text).fontSize) * (text.getCTM ? text.getCTM().a : 1)),
    plots: [...document.querySelectorAll("svg[role=img]")].map(plot => ({
      id: plot.id, title: plot.querySelector("title").textContent, box: box(plot),
      x: words(plot, "x-label"), y: words(plot, "y-label"),
      texts: [...plot.querySelectorAll("text")].map(text => [text.textContent, ...box(text)]),
    })),
  };
}"""


def missing(sentence):
    (pytest.fail if REQUIRED else pytest.skip)(f"{sentence}; `make pages` installs it")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing(f"expected one of {', '.join(BROWSERS)}, got none")
    try:
        from matplotlib import __version__  # noqa: F401
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        missing(f"expected {error.name}, got none")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=VARIANTS)
def page_file(request, tmp_path_factory):
    from sparse_ext.report import page

    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.html(VARIANTS[request.param]()), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=str)
def look(browser, page_file, request):
    """What the page looks like, with its messages and requests."""
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages, requests = [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    found = page.evaluate(LOOK) | {"messages": messages, "requests": requests, "at": width, "file": page_file.as_uri()}
    page.close()
    return found


def test_it_says_and_loads_nothing(look):
    assert look["messages"] == []
    assert [url for url in look["requests"] if not url.startswith("data:")] == [look["file"]]


def test_it_is_as_wide_as_the_window(look):
    assert look["width"] == look["at"]
    for plot in look["plots"]:
        assert plot["box"][2] <= look["at"]


def test_texts_can_be_read(look):
    """WCAG 2 asks for a contrast of 4.5:1."""
    assert look["contrast"]
    assert [text for text in look["contrast"] if text[0] < 4.5] == []
    assert min(look["size"]) >= 10


def test_texts_of_plots_do_not_overlap(look):
    for plot in look["plots"]:
        for (one, *a), (other, *b) in combinations([text for text in plot["texts"] if text[0].strip()], 2):
            across, along = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert across <= 0.5 or along <= 1, f"{plot['id']}: {one!r} and {other!r}"


def test_texts_of_plots_are_inside(look):
    for plot in look["plots"]:
        left, top, right, bottom = plot["box"]
        for text, *box in plot["texts"]:
            inside = box[0] >= left - 1 and box[1] >= top - 1 and box[2] <= right + 1 and box[3] <= bottom + 1
            assert inside or not text.strip(), f"{plot['id']}: {text!r} at {box} of {plot['box']}"


def test_axes_have_units(look):
    """Bars have names on their other axis, and density has its unit at its ticks."""
    assert look["plots"]
    for plot in look["plots"]:
        assert plot["title"]
        assert len(plot["x"]) == 1, plot["id"]
        assert re.search(r"\(\S+\)(, logarithmic)?$|^training steps$", plot["x"][0]), plot["x"]
        assert len(plot["y"]) == plot["id"].startswith("quality"), plot["id"]
        assert all(re.search(r"\((lower|higher) is better\)$", label) for label in plot["y"])
        assert not [text for text, *_ in plot["texts"] if re.match(r"[+\N{MINUS SIGN}-]?1e\d", text)], "an offset of ticks"
        assert plot["id"] != "density" or [text for text, *_ in plot["texts"]].count("100 %")


def test_the_headline_comes_first(look, page_file):
    assert f"<h1>{look['heading'][:20]}" in page_file.read_text(encoding="utf-8").replace("&lt;", "<").replace("&#39;", "'")
