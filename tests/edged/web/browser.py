"""Debian's Chromium without a screen, driven by selenium; what its console says, and whom it asked."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService


@contextmanager
def browser(width: int = 1440, *, dark: bool = False, language: str = "en") -> Iterator[Chrome]:
    """A browser of its own, closed at the end."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        if os.environ.get("CI"):
            pytest.fail("chromium and its driver are not installed; CI installs them")
        pytest.skip("chromium is not installed (Debian: apt install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(flag)
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    one = Chrome(options=options, service=ChromeService(driver))
    try:
        one.set_page_load_timeout(60)
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        one.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        one.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield one
    finally:
        one.quit()


def console(driver: Chrome) -> list[str]:
    """What the console has said since it was last asked."""
    return [entry["message"] for entry in driver.get_log("browser")]  # type: ignore[no-untyped-call]


def hosts(driver: Chrome) -> set[str]:
    """Every host that was asked for anything since this was last asked."""
    found = set()
    for entry in driver.get_log("performance"):  # type: ignore[no-untyped-call]
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme not in {"data", "blob", "about", "chrome"}:
                found.add(url.netloc)
    return found
