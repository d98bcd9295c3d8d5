import base64
import json
import os
import time
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.edged.daemons import Site
from tests.edged.making import bad, good, until
from tests.edged.web.browser import browser, console, hosts

SHOTS = os.environ.get("EDGED_SCREENSHOTS")
"""A folder for pictures of the pages, for people to look at."""


def click(driver: Chrome, id_: str) -> None:
    """Clicks at once: what is found first and clicked then may have been renewed in between."""
    driver.execute_script("document.getElementById(arguments[0]).click()", id_)


def keep(driver: Chrome, name: str) -> None:
    if SHOTS:
        size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        (Path(SHOTS) / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def is_narrow_enough(driver: Chrome) -> bool:
    return bool(driver.execute_script("return document.documentElement.scrollWidth <= innerWidth"))


@pytest.fixture
def watched(site: Site) -> Site:
    """A daemon with a few results of each sort."""
    site.configure(rest=f'[[sinks]]\nname = "overlays"\ntype = "images"\ndir = "{site.overlays}"', settle_seconds=0)
    site.start()
    for number in range(20):
        (site.inbox / f"good{number:02}.png").write_bytes(good(number))
    (site.inbox / "<b>bad & odd.png").write_bytes(bad())
    (site.inbox / "broken.png").write_bytes(b"no picture")
    site.wait_for_rows(22)
    return site


def cards(driver: Chrome) -> int:
    return len(driver.find_elements(By.CSS_SELECTOR, "#latest li"))


def test_the_overview_is_live_and_asks_nobody_else(watched: Site) -> None:
    with browser() as driver:
        driver.get(watched.url + "/")
        until(lambda: cards(driver) == 1, "the anomaly")
        assert "Healthy" in driver.find_element(By.ID, "state").text
        assert "<b>bad & odd.png" in driver.find_element(By.ID, "latest").text
        assert "undecodable" in driver.find_element(By.ID, "quarantine").text
        loaded = "return [...document.images].every(one => one.complete && one.naturalWidth > 0)"
        until(lambda: driver.execute_script(loaded), "its picture")
        (watched.inbox / "bad2.png").write_bytes(bad(2))
        scored = until(lambda: next((row for row in watched.rows() if row.path.endswith("bad2.png")), None), "a result")
        until(lambda: driver.find_elements(By.ID, f"anomaly-{scored.id}"), "the new anomaly")
        assert time.time() - scored.scored_at < 2.0
        until(lambda: driver.execute_script(loaded), "its picture")
        assert hosts(driver) == {urlsplit(watched.url).netloc}
        assert console(driver) == []


def test_it_says_when_it_hears_nothing_any_more(watched: Site) -> None:
    with browser() as driver:
        driver.get(watched.url + "/")
        until(lambda: cards(driver) == 1, "the anomaly")
        watched.stop()
        lost = driver.find_element(By.ID, "lost")
        until(lost.is_displayed, "word of the lost connection")
        assert lost.text.startswith("No connection to edged since ")
        assert "{" not in lost.text


@pytest.mark.parametrize(
    ("width", "dark", "language"), [(390, False, "de"), (390, True, "en"), (1440, False, "en"), (1440, True, "de")]
)
def test_it_fits_a_phone_and_a_wall(watched: Site, width: int, dark: bool, language: str) -> None:
    with browser(width, dark=dark, language=language) as driver:
        driver.get(watched.url + "/")
        until(lambda: cards(driver) == 1, "the anomaly")
        keep(driver, f"overview-{width}-{'dark' if dark else 'light'}-{language}")
        assert is_narrow_enough(driver)
        assert driver.find_element(By.TAG_NAME, "html").get_attribute("lang") == language
        back = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(json.loads(back.replace("rgb(", "[").replace(")", "]"))) < 200) == dark
        assert console(driver) == []


def test_logging_in_and_out(site: Site) -> None:
    token = site.root / "token"
    token.write_text("a long word")
    site.configure(http=f'token_file = "{token}"')
    site.start()
    with browser() as driver:
        driver.get(site.url + "/")
        assert urlsplit(driver.current_url).path == "/login"
        for word in ("wrong", "a long word"):
            driver.find_element(By.ID, "token").send_keys(word)
            driver.find_element(By.CSS_SELECTOR, "main button").click()
            until(lambda word=word: ("not the token" in driver.page_source) == (word == "wrong"), "the answer")  # type: ignore[misc]
        until(lambda: driver.find_elements(By.ID, "sources"), "the overview")
        assert driver.execute_script("return document.cookie") == ""
        driver.find_element(By.CSS_SELECTOR, "header button").click()
        until(lambda: urlsplit(driver.current_url).path == "/login", "the form")
        driver.get(site.url + "/")
        assert urlsplit(driver.current_url).path == "/login"


def test_a_label_of_one_click_survives_a_restart(watched: Site) -> None:
    (odd,) = [row.id for row in watched.rows() if row.is_anomaly]
    with browser() as driver:
        driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kolkata"})
        driver.get(watched.url + "/")
        until(lambda: cards(driver) == 1, "the anomaly")
        click(driver, f"real-{odd}")
        pressed = f"#real-{odd}[aria-pressed=true]"
        until(lambda: driver.find_elements(By.CSS_SELECTOR, pressed), "the label")
        assert urlsplit(driver.current_url).path == "/"
        assert watched.metrics()['edged_labels_total{label="real",source="line1"}'] == 1
        driver.get(f"{watched.url}/results/{odd}")
        driver.find_element(By.ID, "note").send_keys("a scratch")
        driver.find_element(By.CSS_SELECTOR, "main [value=false_alarm]").click()
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "[value=false_alarm][aria-pressed=true]"), "the label")
        keep(driver, "result-1440-light-en")
        assert str(watched.inbox / "<b>bad & odd.png") in driver.find_element(By.TAG_NAME, "main").text
        driver.get(watched.url + "/results?outcome=anomaly")
        assert len(driver.find_elements(By.CSS_SELECTOR, "tbody tr")) == 1
        since = driver.find_element(By.ID, "since")
        driver.execute_script("arguments[0].value = '2020-01-02T03:04'", since)
        driver.find_element(By.CSS_SELECTOR, ".filters button").click()
        until(lambda: "since=2020-01-01T21%3A34" in driver.current_url, "the time in UTC")  # it is 5:30 later there
        assert driver.find_element(By.ID, "since").get_attribute("value") == "2020-01-02T03:04"
        keep(driver, "results-1440-light-en")
        assert console(driver) == []
    watched.stop()
    watched.start()
    with browser(390, dark=True) as driver:
        driver.get(f"{watched.url}/results/{odd}")
        assert driver.find_elements(By.CSS_SELECTOR, "[value=false_alarm][aria-pressed=true]")
        assert driver.find_element(By.ID, "note").text == "a scratch"
        assert is_narrow_enough(driver)
        keep(driver, "result-390-dark-en")
        driver.get(watched.url + "/results")
        assert is_narrow_enough(driver)
        keep(driver, "results-390-dark-en")


def test_a_label_that_is_not_kept_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a long word")
    site.configure(http=f'token_file = "{tmp_path}/token"', settle_seconds=0)
    site.start()
    (site.inbox / "odd.png").write_bytes(bad())
    (odd,) = [row.id for row in site.wait_for_rows(1)]
    with browser() as driver:
        driver.get(site.url + "/")
        driver.find_element(By.ID, "token").send_keys("a long word")
        driver.find_element(By.CSS_SELECTOR, "main button").click()
        until(lambda: cards(driver) == 1, "the anomaly")
        is_told = "return !document.getElementById('unsaid').hidden"
        assert not driver.execute_script(is_told)
        driver.delete_all_cookies()  # as when the session ends
        click(driver, f"real-{odd}")
        until(lambda: driver.execute_script(is_told), "the banner")
        assert urlsplit(driver.current_url).path == "/"
        keep(driver, "unsaid-1440-light-en")


def test_the_slider_shows_what_another_threshold_would_have_flagged(watched: Site) -> None:
    (odd,) = [row.id for row in watched.rows() if row.is_anomaly]
    config = watched.config.read_bytes()
    with browser() as driver:
        driver.get(f"{watched.url}/results/{odd}")
        driver.find_element(By.CSS_SELECTOR, "main [value=false_alarm]").click()
        until(lambda: driver.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]"), "the label")
        driver.get(watched.url + "/models")
        keep(driver, "models-1440-light-en")
        driver.find_element(By.CSS_SELECTOR, "a.action").click()
        assert urlsplit(driver.current_url).path == "/models/tiny/threshold"

        def cell(name: str) -> str:
            return driver.find_element(By.CSS_SELECTOR, f"[data-cell={name}]").text

        assert [cell(name) for name in ("all", "false_alarm", "real")] == ["1", "1", "0"]
        slider = driver.find_element(By.ID, "slider")
        slider.send_keys(Keys.END)
        assert [cell(name) for name in ("all", "false_alarm", "line")] == ["0", "0", "threshold = 2.0"]
        assert driver.find_element(By.ID, "value").get_attribute("value") == "2"
        slider.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
        assert cell("line") == "threshold = 0.1279"  # 0.5 / 4 * 4 ** (1 / 60)
        assert slider.get_attribute("aria-valuetext") == "0.1279"
        number = driver.find_element(By.ID, "value")
        number.clear()
        number.send_keys("1.99", Keys.ENTER)
        until(lambda: "value=1.99" in driver.current_url, "the page for that number")
        assert [cell(name) for name in ("all", "line")] == ["1", "threshold = 1.99"]
        keep(driver, "threshold-1440-light-en")
        assert hosts(driver) == {urlsplit(watched.url).netloc}
        assert console(driver) == []
    assert watched.config.read_bytes() == config
    with browser(390, dark=True, language="de") as driver:
        for name in ("models", "models/tiny/threshold"):
            driver.get(f"{watched.url}/{name}")
            assert is_narrow_enough(driver)
            keep(driver, f"{name.rpartition('/')[2]}-390-dark-de")


AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).then(
    found => done(found.violations.map(one => one.id + ": " + one.nodes.map(node => node.html).join(" | "))),
    error => done([String(error)]),
);
"""


@pytest.mark.parametrize("dark", [False, True])
def test_everybody_can_use_it(watched: Site, dark: bool) -> None:
    axe = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
    (odd,) = [row.id for row in watched.rows() if row.is_anomaly]
    with browser(dark=dark) as driver:
        paths = ("/", "/results", f"/results/{odd}", "/models", "/models/tiny/threshold", "/login", "/results?limit=x")
        for path in paths:
            driver.get(watched.url + path)
            if path == "/":
                until(lambda: cards(driver) == 1, "the anomaly")
            driver.execute_script(axe)
            assert driver.execute_async_script(AXE) == [], path
