"""The page in a real browser with the network off: nothing fetched, no error, what is said happens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostsearch.records import StudyView
from ghostsearch.report.comparison import write_comparison
from ghostsearch.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver found: apt install chromium chromium-driver"
)

CONTROLS = "a[href], button, select, input, [tabindex]"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(view: StudyView, tmp_path_factory) -> Path:
    return write_report(view, tmp_path_factory.mktemp("study"))


def load(browser, page: Path, width: int = 1280) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance")
    browser.get(page.as_uri())
    wait(browser, "return !!document.querySelector('.plot .main-svg')")


def wait(browser, script: str, *arguments: object) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda b: b.execute_script(script, *arguments))


def plotted(browser, model: str) -> dict[str, int]:
    """Viewport position of a model's mark on the front."""
    return browser.execute_script(
        """const plot = document.getElementById("front-plot"), id = arguments[0];
        plot.scrollIntoView({block: "center"});
        for (const trace of plot.data) {
          const i = (trace.customdata || []).indexOf(id);
          if (i < 0) continue;
          const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
          return {x: Math.round(box.x + xaxis._offset + xaxis.d2p(trace.x[i])),
                  y: Math.round(box.y + yaxis._offset + yaxis.d2p(trace.y[i]))};
        }""",
        model,
    )


def mouse(browser, place: dict[str, int], press: bool = False) -> None:
    events = ["mouseMoved", *(["mousePressed", "mouseReleased"] if press else [])]
    for kind in events:
        button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **place, **button})


def selected(browser) -> str:
    return browser.find_element("css selector", "#detail h3").text


@pytest.mark.parametrize("width", [1280, 400])
def test_no_error_nothing_fetched_and_no_sideways_scrolling(browser, page, width) -> None:
    load(browser, page, width)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    requests = [e["message"] for e in browser.get_log("performance") if "Network.requestWillBeSent" in e["message"]]
    assert not [message for message in requests if '"url":"http' in message]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_hover_shows_the_architecture(browser, page, view) -> None:
    load(browser, page)
    record = next(r for r in view.records if r.digest == view.chosen)
    mouse(browser, plotted(browser, view.chosen))
    wait(browser, "return !!document.querySelector('#front-plot .hovertext')")
    text = browser.find_element("css selector", "#front-plot .hoverlayer").text
    assert view.chosen in text
    for choice in set(record.sites.values()):
        assert choice in text


def test_a_click_selects_the_model_everywhere(browser, page, view) -> None:
    load(browser, page)
    assert selected(browser) == view.chosen
    other = next(d for d in view.front if d not in ("baseline", view.chosen))
    mouse(browser, plotted(browser, other), press=True)
    wait(browser, "return document.querySelector('#detail h3').textContent === arguments[0]", other)
    assert browser.find_element("css selector", "#pick").get_attribute("value") == other
    strip = browser.find_element("css selector", f'[data-strip="{other}"]')
    assert strip.get_attribute("aria-pressed") == "true"
    rows = browser.find_elements("css selector", f'tr[data-model="{other}"]')
    assert rows
    assert all("selected" in row.get_attribute("class") for row in rows)
    assert other in browser.find_element("css selector", "#beside thead").text
    searched, final = (next(r for r in rs if r.digest == other).score() for rs in (view.records, view.finalists))
    for part in ("#detail", "#beside"):
        text = browser.find_element("css selector", part).text
        for score, label in ((searched, "as searched"), (final, "after final training")):
            assert re.search(rf"validation accuracy, {label}\b[^v]*\b{100 * score.value:.1f} %", text)
    assert other in browser.find_element("css selector", "#layer-sum").text
    bars = browser.execute_script("return document.getElementById('layer-plot').data.map(t => t.y)")
    rows = [(row["baseline_s"], row["seconds"][other]) for row in view.layers]
    for drawn, wanted in zip(bars, zip(*rows, strict=True), strict=True):
        assert drawn == pytest.approx([1e6 * seconds for seconds in wanted])


def test_the_keyboard_reaches_models_without_the_plot(browser, page, view) -> None:
    load(browser, page)
    target = view.front[-1]
    button = browser.find_element("css selector", f'#trials-table [data-select="{target}"]')
    button.send_keys("\ue007")
    assert selected(browser) == target
    strip = browser.find_element("css selector", '[data-strip="baseline"]')
    strip.send_keys(" ")
    assert selected(browser) == "baseline"


def test_axes_switch(browser, page, view) -> None:
    from selenium.webdriver.support.ui import Select

    load(browser, page)
    Select(browser.find_element("css selector", "#axis-x")).select_by_visible_text("MACs")
    Select(browser.find_element("css selector", "#axis-y")).select_by_value("final")
    titles = browser.execute_script(
        "const l = document.getElementById('front-plot').layout; return [l.xaxis.title.text, l.yaxis.title.text]"
    )
    assert titles == ["MACs (M)", "test accuracy (%)"]
    shown = browser.execute_script("return document.getElementById('front-plot').data.flatMap(t => t.customdata || [])")
    assert set(shown) == {r.digest for r in view.finalists}


def test_trials_sort_and_filter(browser, page, view) -> None:
    load(browser, page)
    ids = "return [...document.querySelectorAll('#trials-table tbody tr')].map(r => r.dataset.model)"
    assert len(browser.execute_script(ids)) == len(view.records)
    browser.find_element("css selector", "#trials-table thead th:nth-child(5) button").click()
    scores = {r.digest: r.score().value for r in view.records}
    order = [scores[d] for d in browser.execute_script(ids)]
    assert order == sorted(order, reverse=True)
    heading = browser.find_element("css selector", "#trials-table thead th:nth-child(5)")
    assert heading.get_attribute("aria-sort") == "descending"
    browser.find_element("css selector", "#filter").send_keys("uniform ratio=4")
    assert browser.execute_script(ids) == [
        r.digest for r in view.records if r.origin == "uniform" and "ghost(ratio=4, kernel=3)" in r.sites.values()
    ]


def test_every_control_has_a_name(browser, page) -> None:
    load(browser, page)
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "combobox", "searchbox", "textbox", "checkbox", "spinbutton"}
    controls = [n for n in nodes if n.get("role", {}).get("value") in roles and not n.get("ignored")]
    assert len(controls) > 20
    assert [n for n in controls if not n.get("name", {}).get("value", "").strip()] == []
    # What takes the focus by tabindex has to say what it is, too.
    unnamed = browser.execute_script(
        """return [...document.querySelectorAll(arguments[0])].filter(e => e.hasAttribute("tabindex")
        && !e.getAttribute("aria-label") && !e.textContent.trim()).map(e => e.outerHTML.slice(0, 80))""",
        CONTROLS,
    )
    assert unnamed == []


def test_theme_button_switches_colours(browser, page) -> None:
    load(browser, page)
    paper = "return getComputedStyle(document.body).backgroundColor"
    button = browser.find_element("css selector", "#theme")
    button.click()
    light = browser.execute_script(paper)
    button.click()
    dark = browser.execute_script(paper)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 24, 29)")
    assert "dark" in button.get_attribute("aria-label")
    button.click()


def test_prints(browser, page) -> None:
    load(browser, page)
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert pdf.startswith("JVBERi")  # %PDF
    # Back on the screen, the plots are as wide as their places again.
    wait(
        browser,
        "const p = document.getElementById('front-plot'); return Math.abs(p._fullLayout.width - p.clientWidth) < 3",
    )
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_comparison_page_draws_every_study(browser, view, tmp_path) -> None:
    other = view.model_copy(update={"name": "another <b>study</b>"})
    load(browser, write_comparison([view, other], tmp_path))
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    names = browser.execute_script("return document.getElementById('fronts-plot').data.map(t => t.name)")
    assert view.name in names
    assert "another &lt;b&gt;study&lt;/b&gt;" in names
    assert other.name in browser.find_element("css selector", "h1").text
