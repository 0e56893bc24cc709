"""The page in a real browser: opens from disk, asks the network for nothing, toggles, filters, fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qcam.evaluate.report.write import write_report
from qcam.evaluate.results.folder import Results

_BROWSER, _DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    not (_BROWSER and _DRIVER), reason="no chromium with chromedriver here; make browser fetches them, as root"
)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-prefers-reduced-motion",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report([Results(ran)], tmp_path_factory.mktemp("page"))[0].resolve().as_uri()


@pytest.fixture
def browse(page: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Open the page; returns a driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    opened: list[Any] = []

    def browse(
        *, width: int = 1280, height: int = 900, javascript: bool = True, phone: bool = False, everything: bool = True
    ) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = str(_BROWSER)
        for flag in (*_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={tmp_path / str(len(opened))}"):
            options.add_argument(flag)
        if not javascript:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        if phone:
            metrics = {"width": width, "height": height, "pixelRatio": 2.0}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(_DRIVER))
        opened.append(driver)
        driver.get(page)
        if everything:
            click(driver, driver.find_element("id", "show-all"))
            for summary in driver.find_elements("css selector", "details.filters>summary"):
                if summary.is_displayed():
                    click(driver, summary)
        return driver

    yield browse
    for driver in opened:
        driver.quit()


def cards(driver: Any) -> list[Any]:
    return [card for card in driver.find_elements("css selector", "article.card") if card.is_displayed()]


def click(driver: Any, element: Any) -> None:
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()


def choose(driver: Any, field: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    select = Select(driver.find_element("id", field))
    (place,) = [place for place, option in enumerate(select.options) if option.get_attribute("value") == value]
    select.select_by_index(place)


def test_it_opens_from_disk_without_an_error_or_a_request(browse: Callable[..., Any]) -> None:
    import json

    driver = browse(everything=False)
    assert driver.title
    assert driver.get_log("browser") == []
    asked = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    outside = [url for url in asked if not url.startswith(("file:", "data:", "chrome:"))]  # the browser's own first tab
    assert outside == []
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert len(cards(driver)) == 6  # the worst; the others on demand
    click(driver, driver.find_element("id", "show-all"))
    assert len(cards(driver)) == 14


@pytest.mark.parametrize("javascript", [True, False])
def test_a_toggle_shows_another_precision(browse: Callable[..., Any], javascript: bool) -> None:
    driver = browse(javascript=javascript)
    card = driver.find_element("css selector", "article.card")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", card)  # the driver's script, not the page's

    def visible() -> list[str]:
        shown = card.find_elements("css selector", ".views > figure")
        pictures = [figure.find_element("css selector", ".pic") for figure in shown if figure.is_displayed()]
        return [picture.get_attribute("aria-label") for picture in pictures]

    before = visible()
    assert len(before) == 1
    labels = card.find_elements("css selector", ".strip label")
    seen = set(before)
    for label in labels:
        label.click()
        (told,) = visible()
        seen.add(told)
    assert len(seen) == len(labels) >= 5  # photo, object, f32, int16, int8, and the simulations


def test_arrow_keys_walk_through_the_precisions(browse: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = browse(javascript=False)
    first = driver.find_element("css selector", "article.card")
    keys = [item.get_attribute("data-k") for item in first.find_elements("css selector", ".viewer > input")]
    chosen = first.find_element("css selector", ".viewer > input:checked")
    assert chosen.get_attribute("data-k") == "int8"  # the coarsest precision's deployed CAM comes first
    chosen.send_keys(Keys.ARROW_LEFT)
    now = first.find_element("css selector", ".viewer > input:checked").get_attribute("data-k")
    assert now == keys[keys.index("int8") - 1] == "int16"


def test_the_dark_page_is_dark_with_its_charts(browse: Callable[..., Any]) -> None:
    driver = browse()
    script = """
        const color = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
        return [color('body', 'backgroundColor'), color('body', 'color'), color('#summary svg text', 'fill')];
    """

    def light(text: str) -> bool:
        values = [float(value) for value in text[text.index("(") + 1 : -1].split(",")[:3]]
        return sum(values) / 3 > 128

    for scheme, expected in (("light", [True, False, False]), ("dark", [False, True, True])):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert [light(color) for color in driver.execute_script(script)] == expected


def test_without_javascript_table_and_pictures_are_there_and_tools_are_not(browse: Callable[..., Any]) -> None:
    driver = browse(javascript=False)
    assert driver.find_element("css selector", "table.study").is_displayed()
    assert len(cards(driver)) == 14
    assert not driver.find_element("css selector", "form.tools").is_displayed()


def test_filters_leave_the_cards_that_fit(browse: Callable[..., Any]) -> None:
    driver = browse()
    choose(driver, "f-model", "tiny")
    shown = cards(driver)
    assert len(shown) == 7
    assert all("tiny" in card.find_element("css selector", "header p").text for card in shown)
    assert driver.find_element("id", "f-count").text == "7 of 14"
    choose(driver, "f-model", "")
    choose(driver, "f-flip", "kept")
    kept = len(cards(driver))
    choose(driver, "f-flip", "flip")
    assert kept + len(cards(driver)) == 14
    choose(driver, "f-flip", "")
    driver.find_element("id", "f-limit").send_keys("-1")
    assert cards(driver) == []
    assert driver.find_element("id", "f-none").is_displayed()


def test_order_turns_the_cards_around(browse: Callable[..., Any]) -> None:
    driver = browse()

    def order() -> list[str]:
        return [card.get_attribute("id") for card in cards(driver)]

    worst = order()
    choose(driver, "f-order", "best")
    assert order() == worst[::-1]


def test_the_slider_fades_the_map_over_the_photo(browse: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = browse()

    def opacity() -> float:
        script = "return getComputedStyle(document.querySelector('.views .cam')).opacity"
        return float(driver.execute_script(script))

    driver.execute_script("document.documentElement.style.setProperty('transition', 'none')")
    slider = driver.find_element("id", "f-alpha")
    assert driver.find_element("id", "f-alpha-out").text == "60 %"
    slider.send_keys(Keys.HOME)
    assert driver.find_element("id", "f-alpha-out").text == "0 %"
    driver.implicitly_wait(1)
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 5).until(lambda _: opacity() == 0.0)
    slider.send_keys(Keys.END)
    WebDriverWait(driver, 5).until(lambda _: opacity() == 1.0)


def test_every_card_shows_the_precision_that_is_asked_of_all(browse: Callable[..., Any]) -> None:
    driver = browse()
    script = "return [...document.querySelectorAll('.viewer > input:checked')].map(input => input.dataset.k)"
    choose(driver, "f-view", "photo")
    assert set(driver.execute_script(script)) == {"photo"}


@pytest.mark.parametrize("javascript", [True, False])
def test_a_phone_has_nothing_to_scroll_sideways(browse: Callable[..., Any], javascript: bool) -> None:
    driver = browse(width=390, height=844, phone=True, javascript=javascript, everything=False)
    metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    assert metrics["cssContentSize"]["width"] <= 390
    assert len(cards(driver)) == 6


def test_a_screenshot_is_no_blank_page(browse: Callable[..., Any], tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    driver = browse()
    driver.execute_script("document.getElementById('pictures').scrollIntoView()")
    path = tmp_path / "page.png"
    assert driver.save_screenshot(str(path))
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # photographs under maps, not text alone
