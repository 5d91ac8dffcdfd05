"""The page in a headless Chromium, over a real socket, before a model that says what a test wants."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from stride.server.errors import LoadingError, response
from stride.server.process import listen

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PATIENCE = 10  # seconds; a test that passes waits for none of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None or DRIVER is None:
        for item in items:
            if "browser" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.skip("needs Debian's packages chromium and chromium-driver"))


class Site:
    """An application on a port of its own, and so with browser storage of its own."""

    def __init__(self, app: Any, model: Any) -> None:
        self.model = model
        self.is_loaded = True
        self.app = app
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def start(self) -> None:
        """Begin, or begin again on the same port."""
        self._listener = listen("127.0.0.1", self.port)
        self.port = self._listener.getsockname()[1]
        config = uvicorn.Config(self._answer, interface="asgi3", log_config=None, http="h11", ws="none", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        is_page = scope["path"] == "/" or scope["path"].startswith("/page/")
        await (self.app if self.is_loaded or is_page else response(LoadingError()))(scope, receive, send)

    def stop(self) -> None:
        """End, whatever is under way."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        self._listener.close()


@dataclass
class Page:
    """The page, in the browser; names as a person would call things."""

    driver: Chrome
    site: Site
    keys: type[Keys] = field(default=Keys)

    @property
    def model(self) -> Any:
        return self.site.model

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives once it gives something."""
        return WebDriverWait(self.driver, PATIENCE, 0.02).until(lambda _: condition())

    def wait_text(self, selector: str, text: str) -> None:
        """Until the text of an element has this part."""
        script = "return document.querySelector(arguments[0])?.innerText.includes(arguments[1])"
        self.wait(lambda: self.run(script, selector, text))

    def open(self, *, waits: bool = True, model: str = "scripted") -> Page:
        self.driver.get(self.site.url)
        if waits:
            self.wait(lambda: self.find("#prompt").get_attribute("placeholder") == f"Message {model}")
        return self

    def type(self, text: str) -> None:
        self.find("#prompt").send_keys(text)

    def say(self, text: str) -> None:
        """Send a message."""
        self.type(text + Keys.ENTER)

    def ask(self, text: str, *steps: Any) -> WebElement:
        """Send a message that gets this answer, and wait for its end."""
        if steps:
            self.model.steps = steps
        answers = len(self.all(".answer"))
        self.say(text)
        self.wait(lambda: len(self.all(".answer")) > answers)
        return self.answered()

    def answered(self) -> WebElement:
        """The last answer, once it has ended."""
        self.wait(lambda: self.all(".answer:last-child:not(.running)"))
        return self.find(".answer:last-child")

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        """Keys, to whatever has the focus."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self) -> str:
        """What has the focus: its id, else its label, else its text."""
        element = self.driver.switch_to.active_element
        return element.get_attribute("id") or element.get_attribute("aria-label") or element.text

    def resize(self, width: int, height: int, *, touch: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, **features: str) -> None:
        """What the system prefers: ``prefers_color_scheme="dark"`` and the like."""
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path_factory.mktemp("downloads"))})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options, ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def site(scripted: Any, scripted_models: Any) -> Iterator[Callable[..., Site]]:
    """``site(*steps, **settings)``: an application that listens; ``site(models={name: steps})``: one of several models.

    The ``model`` of the latter is all of them, by name.
    """
    sites: list[Site] = []

    def start(*steps: Any, models: dict[str, Any] | None = None, **settings: Any) -> Site:
        client, model = scripted_models(models) if models else scripted(*steps, **settings)
        sites.append(Site(client.app, model))
        sites[-1].start()
        return sites[-1]

    yield start
    for each in sites:
        each.stop()


@pytest.fixture
def page(browser: Chrome, site: Any) -> Iterator[Callable[..., Page]]:
    """``page(*steps, **settings)``: the page of such an application, not opened yet. No script may fail in it."""

    def start(*steps: Any, **settings: Any) -> Page:
        made = Page(browser, site(*steps, **settings))
        made.resize(1280, 800)
        made.prefer(prefers_color_scheme="light", prefers_reduced_motion="no-preference")
        return made

    browser.get("about:blank")
    browser.get_log("browser")
    yield start
    failures = [
        entry["message"]
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and entry["source"] != "network"
    ]
    browser.get("about:blank")  # nothing holds a connection while the application ends
    assert failures == []
