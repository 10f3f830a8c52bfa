"""The page in a real browser with the network off: nothing fetched, no error, what is said happens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ghostsearch.errors import GhostsearchError
from ghostsearch.records import StudyView
from ghostsearch.report.comparison import write_comparison
from ghostsearch.report.page import write_report
from ghostsearch.space.limits import Limits
from ghostsearch.study.pick import pick
from ghostsearch.study.recommendation import BASELINES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver found: apt install chromium chromium-driver"
)


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


def problems(browser) -> list:
    return [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.parametrize("width", [1280, 400])
def test_no_error_nothing_fetched_and_no_sideways_scrolling(browser, page, width) -> None:
    load(browser, page, width)
    assert problems(browser) == []
    requests = [e["message"] for e in browser.get_log("performance") if "Network.requestWillBeSent" in e["message"]]
    assert not [message for message in requests if '"url":"http' in message]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_study_without_trials_has_a_page_that_works(browser, view, tmp_path) -> None:
    nothing = dict.fromkeys(("records", "objectives", "front", "finalists", "missed", "layers", "int8_layers"), ())
    load(browser, write_report(view.model_copy(update={**nothing, "chosen": ""}), tmp_path))
    browser.find_element("css selector", "#theme").click()
    assert browser.find_element("css selector", "#theme").text == "Theme: light"
    assert problems(browser) == []
    browser.execute_script("localStorage.clear()")


def test_a_click_selects_the_model_everywhere(browser, page, view) -> None:
    load(browser, page)
    assert selected(browser) == view.chosen
    other = next(d for d in view.front if d not in ("baseline", view.chosen))
    record = next(r for r in view.finalists if r.digest == other)
    mouse(browser, plotted(browser, other))
    wait(browser, "return !!document.querySelector('#front-plot .hovertext')")
    hover = browser.find_element("css selector", "#front-plot .hoverlayer").text
    assert all(text in hover for text in (other, *record.sites.values()))
    mouse(browser, plotted(browser, other), press=True)
    wait(browser, "return document.querySelector('#detail h3').textContent === arguments[0]", other)
    assert browser.find_element("css selector", "#pick").get_attribute("value") == other
    rows = browser.find_elements("css selector", f'tr[data-model="{other}"]')
    assert len(rows) == 2
    assert all("selected" in row.get_attribute("class") for row in rows)
    detail = browser.find_element("css selector", "#detail").text
    for split in ("validation", "test"):
        assert re.search(rf"{split}, after final training\s+{100 * record.score(split).value:.1f} ±", detail)
    assert other in browser.find_element("css selector", "#layer-sum").text
    after = browser.execute_script("return document.getElementById('layer-plot').data[1].y")
    assert after == pytest.approx([1e6 * row["seconds"][other] for row in view.layers], rel=1e-4)


def test_axes_switch(browser, page, view) -> None:
    from selenium.webdriver.support.ui import Select

    load(browser, page)
    Select(browser.find_element("css selector", "#axis-x")).select_by_visible_text("MACs")
    titles = "const l = document.getElementById('front-plot').layout; return [l.xaxis.title.text, l.yaxis.title.text]"
    assert browser.execute_script(titles) == ["MACs (M)", "validation accuracy (%)"]
    Select(browser.find_element("css selector", "#axis-y")).select_by_value("searched")
    shown = browser.execute_script("return document.getElementById('front-plot').data.flatMap(t => t.customdata || [])")
    assert set(shown) == {r.digest for r in view.records}


def test_sliders_take_what_choose_takes(browser, view, tmp_path) -> None:
    unlimited = tuple(axis.model_copy(update={"limit": None}) for axis in view.objectives)
    free = view.model_copy(update={"objectives": unlimited, "config": {**view.config, "max_drop": None}})
    load(browser, write_report(free, tmp_path))
    drag = """for (const [id, value] of Object.entries(arguments[0])) {
        const slider = document.getElementById(id);
        slider.value = value === null ? slider.max : value;
        slider.dispatchEvent(new Event("input"));
    } return document.getElementById("command").textContent;"""
    shares = sorted(100 * r.latencies[0].ratio for r in view.finalists if r.digest not in BASELINES)
    budgets = [int(shares[0]) - 1, *(int(share) + 1 for share in shares)]
    taken = set()
    for budget in budgets:
        for drop in (None, 0.4, 1.0, 2.5):
            command = browser.execute_script(drag, {"max-cost": budget, "max-drop": drop})
            limits = Limits(max_latency=f"{budget}%", max_drop=None if drop is None else f"{drop}%")
            try:
                wanted = pick(free, limits).record.digest
            except GhostsearchError:
                assert command == "", (budget, drop)
                continue
            assert command == f"ghostsearch export {view.directory}/models/{wanted} --format onnx", (budget, drop)
            assert selected(browser) == wanted
            taken.add(wanted)
    assert len(taken) > 2


def test_copied_is_said_of_the_command_that_was_copied(browser, page) -> None:
    load(browser, page)
    copy = browser.find_element("css selector", "#copy")
    copy.click()
    wait(browser, "return document.getElementById('copy').textContent === 'Copied'")
    browser.execute_script("document.getElementById('max-cost').dispatchEvent(new Event('input'))")
    assert copy.text == "Copy"


def test_trials_sort_and_filter(browser, page, view) -> None:
    load(browser, page)
    rows = "[...document.querySelectorAll('#trials-table tbody tr')]"
    ids = f"return {rows}.filter(r => !r.hidden).map(r => r.dataset.model)"
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
    browser.find_element("css selector", "#trials-table tbody tr:not([hidden]) [data-select]").send_keys("\ue007")
    assert selected(browser) == browser.execute_script(ids)[0]


@pytest.mark.parametrize("clicks", [1, 2])
def test_missing_figures_come_last_in_either_order(browser, view, tmp_path, clicks) -> None:
    empty = {"state": "failed", "reason": "boom", "scores": (), "latencies": (), "cost": None}
    broken = {view.records[i].digest for i in (7, 20, 30)}
    records = tuple(r.model_copy(update=empty) if r.digest in broken else r for r in view.records)
    load(browser, write_report(view.model_copy(update={"records": records, "finalists": ()}), tmp_path))
    for column in (5, 6, 7, 8):
        heading = browser.find_element("css selector", f"#trials-table thead th:nth-child({column}) button")
        for _ in range(clicks):
            heading.click()
        shown = "return [...document.querySelectorAll('#trials-table tbody tr')].map(row => row.dataset.model)"
        assert set(browser.execute_script(shown)[-3:]) == broken


def test_every_control_has_a_name_and_the_theme_switches(browser, page) -> None:
    load(browser, page)
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "link", "combobox", "searchbox", "textbox", "checkbox", "slider"}
    controls = [n for n in nodes if n.get("role", {}).get("value") in roles and not n.get("ignored")]
    assert len(controls) > 20
    assert [n for n in controls if not n.get("name", {}).get("value", "").strip()] == []
    paper = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.getElementById('front-plot').layout.font.color"
    seen = []
    for _ in range(2):
        browser.find_element("css selector", "#theme").click()
        seen.append((browser.execute_script(paper), browser.execute_script(ink)))
    assert seen == [("rgb(255, 255, 255)", "#1c2430"), ("rgb(20, 24, 29)", "#e6eaef")]
    browser.find_element("css selector", "#theme").click()


def test_prints(browser, page) -> None:
    load(browser, page)
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert pdf.startswith("JVBERi")  # %PDF
    # Back on the screen, the plots are as wide as their places again.
    wait(
        browser,
        "const p = document.getElementById('front-plot'); return Math.abs(p._fullLayout.width - p.clientWidth) < 3",
    )
    assert problems(browser) == []


def test_comparison_page_draws_every_study(browser, view, tmp_path) -> None:
    other = view.model_copy(update={"name": "another <b>study</b>"})
    load(browser, write_comparison([view, other], tmp_path).page)
    assert problems(browser) == []
    names = browser.execute_script("return document.getElementById('fronts-plot').data.map(t => t.name)")
    assert view.name in names
    assert "another &lt;b&gt;study&lt;/b&gt;" in names
    assert other.name in browser.find_element("css selector", "h1").text
