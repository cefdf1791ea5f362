"""Pages of results in a browser: no errors, tables that sort, narrow and dark screens, paper."""

import base64
import shutil

import pytest
from results_for_pages import HOSTILE_PRUNED, HOSTILE_REPORT, PRUNED, REPORT

from infprune.report.prune_page import prune_html
from infprune.report.report_page import report_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="no Chromium with chromedriver found")
PAGES = {
    "prune": lambda: prune_html(PRUNED),
    "report": lambda: report_html(REPORT),
    "hostile prune": lambda: prune_html(HOSTILE_PRUNED),
    "hostile report": lambda: report_html(HOSTILE_REPORT),
}


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, tmp_path):
    """Open a page at a width and in a colour scheme."""

    def opened(page, width=1200, scheme="light"):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    return opened


def first_column(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('table.sortable tbody th code')].map(c => c.textContent)"
    )


def button(browser, name):
    return next(b for b in browser.find_elements("css selector", "th button") if b.text == name)


def pressed(browser, name, key=None):
    found = button(browser, name)
    found.send_keys(key) if key else found.click()
    header = found.find_element("xpath", "..")
    others = browser.find_elements("css selector", "th[aria-sort]:not([aria-sort=none])")
    return header.get_attribute("aria-sort"), len(others), first_column(browser)


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("width", [400, 1200])
def test_a_page_loads_without_errors_and_fits(show, kind, width):
    browser = show(PAGES[kind](), width)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    names = browser.execute_script("return [...document.querySelectorAll('tbody th')].map(c => c.offsetWidth)")
    assert max(names) <= 0.6 * width  # they stay while the rest of a table scrolls, and must leave room for it
    assert browser.execute_script("return document.querySelector('h1').textContent") != ""


def test_a_header_sorts_by_number_up_then_down_then_not(show):
    browser = show(prune_html(PRUNED))
    original = ["conv10", "conv9", "conv2", "head"]
    assert first_column(browser) == original
    assert pressed(browser, "kept") == ("ascending", 1, ["conv10", "head", "conv9", "conv2"])
    assert pressed(browser, "kept") == ("descending", 1, ["conv2", "conv9", "head", "conv10"])
    assert pressed(browser, "kept") == ("none", 0, original)


def test_the_keyboard_sorts_and_empty_cells_stay_last(show):
    browser = show(prune_html(PRUNED))
    up = ["conv10", "conv9", "conv2", "head"]
    assert pressed(browser, "least score", "\ue007") == ("ascending", 1, up)  # Enter
    assert pressed(browser, "least score", " ") == ("descending", 1, ["conv2", "conv9", "conv10", "head"])
    assert pressed(browser, "layer", " ") == ("ascending", 1, ["conv2", "conv9", "conv10", "head"])


def test_dark_screens_get_a_dark_page(show):
    def colours(scheme):
        browser = show(prune_html(PRUNED), scheme=scheme)
        script = "const s = getComputedStyle(document.documentElement); return [s.backgroundColor, s.color]"
        text = "return getComputedStyle(document.querySelector('svg text.f-ink')).fill"
        return [*browser.execute_script(script), browser.execute_script(text)]

    assert colours("light") == ["rgb(255, 255, 255)", "rgb(27, 31, 36)", "rgb(27, 31, 36)"]
    assert colours("dark") == ["rgb(21, 24, 28)", "rgb(230, 233, 237)", "rgb(230, 233, 237)"]


@pytest.mark.parametrize("kind", ["prune", "report"])
def test_paper_is_light_and_holds_everything(show, kind):
    browser = show(PAGES[kind](), scheme="dark")
    pdf = base64.b64decode(browser.print_page())
    assert pdf.startswith(b"%PDF")
    assert 1 <= pdf.count(b"/Type /Page\n") <= 5
    media = {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    paper = browser.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert paper == "rgb(255, 255, 255)"


def test_scripts_of_others_do_not_run(show):
    """The policy holds even for a script that got past escaping."""
    browser = show(prune_html(PRUNED).replace("</main>", "<script>document.title = 'taken'</script></main>"))
    assert browser.title == "net on digits, pruned"
    assert "Content Security Policy" in browser.get_log("browser")[0]["message"]
