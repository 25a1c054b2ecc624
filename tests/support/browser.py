"""A page of HTML in, what headless Chromium makes of it out: for tests of the report, over the DevTools protocol."""

import asyncio
import base64
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
]
TIMEOUT_S = 60.0


def find_chromium() -> str | None:
    """Path of a Chromium or Chrome on this machine."""
    found = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome"))
    return next(filter(None, found), None)


class Tab:
    """One tab: commands go out, and what the page asked for, said or tried is kept in `events`."""

    def __init__(self, *, loop: asyncio.AbstractEventLoop, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._loop = loop
        self._socket = socket
        self._num_sent = 0
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer; RuntimeError where the browser refuses it."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), TIMEOUT_S))

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        number = await self._send(method, params)
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            if "method" not in message:
                continue  # an answer that nobody waits for
            self.events.append(message)
            if message["method"] == "Page.javascriptDialogOpening" and message["params"]["type"] == "beforeunload":
                await self._send("Page.handleJavaScriptDialog", {"accept": True})  # the page may be left

    async def _send(self, method: str, params: dict[str, Any]) -> int:
        """Send a command; its number."""
        self._num_sent += 1
        await self._socket.send_json({"id": self._num_sent, "method": method, "params": params})
        return self._num_sent

    def open(self, path: Path, *, fragment: str = "") -> None:
        """Load a file and wait until it has loaded; what was seen before is forgotten."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        deadline = time.monotonic() + TIMEOUT_S
        while not self._has_loaded("file:"):
            assert time.monotonic() < deadline, f"{path} did not load"
            time.sleep(0.02)

    def visit(self, address: str) -> None:
        """Load a page of a server on this machine and wait until it has loaded."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        for _ in range(3):  # the browser does not answer for a navigation that a key has stopped
            self._loop.run_until_complete(self._send("Page.navigate", {"url": address}))
            deadline = time.monotonic() + TIMEOUT_S / 3
            while time.monotonic() < deadline:
                if self._has_loaded("http:"):
                    return
                time.sleep(0.02)
        raise AssertionError(f"{address} did not load")

    def _has_loaded(self, protocol: str) -> bool:
        """Whether the tab holds a complete page of a protocol; not where it is just changing pages."""
        try:
            return self.run("document.readyState + location.protocol") == "complete" + protocol
        except RuntimeError as error:
            if not any(words in str(error) for words in ("navigated or closed", "context was destroyed")):
                raise
            return False

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never: {condition}"
            time.sleep(0.02)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression (a promise is awaited); RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, *, code: int, text: str = "") -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def screen(self, *, width: int, height: int, scale: float = 1, phone: bool = False, dark: bool = False) -> None:
        """The size of the window in CSS pixels, and what the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def print_to(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"]))

    def seen(self, method: str) -> list[dict[str, Any]]:
        """Parameters of all events of one kind since the page was opened."""
        return [event["params"] for event in self.events if event["method"] == method]

    def troubles(self) -> list[str]:
        """Exceptions, blocked or failed loads, dialogs and console messages since the page was opened."""
        kinds = (
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
            "Runtime.consoleAPICalled",
        )
        return [str(params) for kind in kinds for params in self.seen(kind)]

    def requests(self) -> list[str]:
        """Addresses that were asked for, other than the page's own and those inside it."""
        urls = [params["request"]["url"] for params in self.seen("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith(("data:", "file:"))]


@contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """A tab of a Chromium of its own, whose profile lies in the empty folder `profile`."""
    chromium = find_chromium()
    assert chromium is not None, "no Chromium on this machine"
    command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    loop = asyncio.new_event_loop()
    try:
        port = _port(profile / "DevToolsActivePort")
        session, socket = loop.run_until_complete(asyncio.wait_for(_connect(port), TIMEOUT_S))
        try:
            yield Tab(loop=loop, socket=socket)
        finally:
            loop.run_until_complete(socket.close())
            loop.run_until_complete(session.close())
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        loop.close()


def _port(path: Path) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while not (path.is_file() and path.read_text().strip()):
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.05)
    return int(path.read_text().split()[0])


async def _connect(port: int) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        targets = await answer.json()
    page = next(target for target in targets if target["type"] == "page")
    return session, await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
