"""The app as a reader meets it: `streamlit run app.py` in a real browser, before servers that only pretend a model."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from io import BytesIO
from itertools import repeat
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import nbformat
import pytest
from fake_server import Server
from PIL import Image

from helpers import PROJECT_ROOT
from helpers.report.markdown import as_markdown, quoted
from helpers.report.plots import new_figure
from helpers.series.runner import write_page
from helpers.use.app.engine import ENDPOINTS

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
expect = playwright.expect
expect.set_options(timeout=30_000)

REPLY = [{"content": "Hm, "}, {"content": "well.</think>"}, {"content": "The median nerve."}]
ENDLESS = {"deltas": repeat({"content": "on "}), "pause": 0.4}  # 13 s until the app would leave it
PHONE = {"width": 390, "height": 844}
FADED = "Promise.allSettled(document.getAnimations().map(a => a instanceof CSSTransition && a.finished)).then(() => 1)"
WIDER = "all => all.filter(each => each.scrollWidth > each.clientWidth).map(each => each.outerHTML.slice(0, 200))"
SPEED = re.compile(r"\d+ tokens a second, 7 in all")


# ------------------------------------------------------------------------------------- what all tests of the file share


@pytest.fixture(scope="module")
def address(finished_run, models, tmp_path_factory):
    """Of the app, with one slot."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port), "--", "--at-once", "1"]
    named = {ENDPOINTS[side]: server.url for side, server in models.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AI_DOCTOR", "STREAMLIT"))}
    environment |= named | {"AI_DOCTOR_RUN_DIR": str(finished_run.path)}
    log = tmp_path_factory.mktemp("app") / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(command, cwd=PROJECT_ROOT, env=environment, stdout=out, stderr=out) as app,
    ):
        try:
            _wait_for(f"http://localhost:{port}/_stcore/health", app, log)
            yield f"http://localhost:{port}/"
        finally:
            app.terminate()


def _wait_for(url, app, log):
    until = time.monotonic() + 40
    while app.poll() is None and time.monotonic() < until:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"the app did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def models():
    """The two servers, by side."""
    return {side: Server([]) for side in ENDPOINTS}


@pytest.fixture(autouse=True)
def reply(models):
    """`reply(deltas, pause=0.2)` is what both servers say from now on; REPLY until then."""

    def say(deltas, pause=0.02):
        for server in models.values():
            server.deltas, server.pause = deltas, pause
            server.requests.clear()
            server.broken.clear()

    say(REPLY)
    return say


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--renderer-process-limit=1"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def context(browser):
    """One for all tests, which keeps what Streamlit's pages load."""
    return browser.new_context(reduced_motion="reduce")


@pytest.fixture
def visit(context, address):
    """`visit("evaluation", color_scheme="dark")` opens a page, which is a session, and waits until it is drawn."""
    pages = []

    def visit(path="", viewport=None, **media):
        page = context.new_page()
        pages.append(page)
        if viewport:
            page.set_viewport_size(viewport)
        if media:
            page.emulate_media(**media)
        page.goto(address + path)
        drawn(page)
        return page

    yield visit
    for page in pages:
        page.close()


def drawn(page):
    """Wait until the script has run to its end."""
    expect(page.get_by_role("heading", level=2).first).to_be_visible()
    expect(page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')).to_be_visible()
    expect(page.get_by_test_id("stException")).to_have_count(0)


def send(page, question):
    page.get_by_label("Clinical question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def stop_button(page):
    """The app's; Streamlit has one of its own in the corner."""
    return page.get_by_test_id("stMainBlockContainer").get_by_role("button", name="Stop")


def panel(page, side):
    """The column with one side's reply to the newest question."""
    return page.get_by_test_id("stColumn").filter(has_text=f"{side} model").first


class Halves:
    """Deltas, anew for each server, of which the second does not come before `go` is set."""

    def __init__(self):
        self.go = threading.Event()

    def __iter__(self):
        yield {"content": "First thoughts"}
        self.go.wait(20)
        yield {"content": ", second ones.</think>The median nerve."}


# ----------------------------------------------------------------------------------------------- a question and replies


def test_replies_grow_side_by_side_reasoning_and_answer_apart_with_their_speed(visit, reply):
    page, halves = visit(), Halves()
    reply(halves)
    send(page, "Which nerve?")
    for side in ("Base", "Tuned"):
        expect(panel(page, side).get_by_test_id("stText")).to_have_text("First thoughts")
    expect(page.get_by_text("Writing …")).to_have_count(2)
    halves.go.set()
    expect(page.get_by_text(SPEED)).to_have_count(2)
    drawn(page)
    expect(stop_button(page)).to_have_count(0)
    boxes = []
    for side in ("Base", "Tuned"):
        texts = panel(page, side).get_by_test_id("stText")
        expect(texts).to_have_text(["First thoughts, second ones.", "The median nerve."])
        expect(panel(page, side).get_by_test_id("stExpander").get_by_test_id("stText")).to_have_text(
            "First thoughts, second ones."
        )
        boxes.append(panel(page, side).bounding_box())
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


def test_the_keyboard_is_enough(visit):
    page = visit()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "TEXTAREA":
            break
    page.keyboard.type("Which nerve?")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text(SPEED)).to_have_count(2)
    expect(page.get_by_test_id("stText").first).to_have_text("Which nerve?")


def test_a_reply_without_end_is_ended_by_the_stop_button(visit, reply, models):
    page = visit()
    reply(**ENDLESS)
    send(page, "Which nerve?")
    expect(page.get_by_text("on on")).to_have_count(2)
    stop_button(page).click()
    expect(page.get_by_text("Stopped.", exact=True)).to_have_count(2)
    expect(page.get_by_text("on on")).to_have_count(2)  # what had come stays
    for server in models.values():
        assert server.broken.wait(5)
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()


def test_a_reload_in_the_middle_frees_its_slot(visit, reply, models):
    page = visit()
    reply(**ENDLESS)
    send(page, "The first?")
    expect(page.get_by_text("on on")).to_have_count(2)
    page.reload()
    drawn(page)
    for server in models.values():
        assert server.broken.wait(5)
    reply(REPLY)
    send(page, "The second?")
    expect(page.get_by_text(SPEED)).to_have_count(2)
    expect(page.get_by_test_id("stAlert")).to_have_count(0)


def test_a_reader_without_a_slot_waits_for_one_and_can_leave(visit, reply):
    first, leaving, waiting = visit(), visit(), visit()
    reply(ENDLESS["deltas"], pause=1)  # 33 s until the app would leave it
    send(first, "The first?")
    expect(first.get_by_text("on on")).to_have_count(2)
    for page in (leaving, waiting):
        send(page, "The second?")
        expect(page.get_by_text("Waiting for a free slot")).to_be_visible()
    stop_button(leaving).click()
    drawn(leaving)
    expect(leaving.get_by_label("Clinical question")).to_have_value("The second?")
    reply(REPLY)
    stop_button(first).click()
    expect(waiting.get_by_text(SPEED)).to_have_count(2)
    expect(leaving.get_by_text("tokens a second")).to_have_count(0)


MARKUP = (
    "<b>bold</b> <script>alert(1)</script> <img src=http://evil.example/a.png onerror=alert(2)> "
    "![x](http://evil.example/b.png) [y](javascript:alert(3)) $1$ :red[z]"
)


def test_markup_of_readers_and_models_is_text_and_loads_nothing(visit, reply):
    page, dialogs, hosts = visit(), [], set()
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.reload()  # so that the page's own requests count too
    drawn(page)
    reply([{"content": f"{MARKUP}</think>"}, {"content": MARKUP}])
    send(page, MARKUP)
    expect(page.get_by_text(SPEED)).to_have_count(2)
    drawn(page)
    expect(page.get_by_test_id("stText")).to_have_text([MARKUP] * 5)
    expect(page.get_by_test_id("stText").locator("*:is(a, b, img, script)")).to_have_count(0)
    assert not dialogs
    assert hosts - {None} == {"localhost"}  # None: data in the address itself


# ------------------------------------------------------------------------------------------------------------ the looks


def test_the_pages_fit_a_phone_even_with_long_words(visit, reply):
    fits(visit("predictions", viewport=PHONE))
    page = visit("evaluation", viewport=PHONE)
    fits(page)
    run = page.frame_locator("iframe")
    expect(run.get_by_role("heading", name="Did it help?")).to_be_visible()
    assert run.locator("html").evaluate("page => page.scrollWidth <= page.clientWidth")
    assert run.locator(".scroll").count() > 2
    assert run.locator(".scroll").evaluate_all(WIDER) == []
    page = visit(viewport=PHONE)
    reply([{"content": f"{'A' * 300}</think>"}, {"content": "B" * 300}])
    send(page, "C" * 300)
    expect(page.get_by_text(SPEED)).to_have_count(2)
    fits(page)


def fits(page):
    """Nothing is wider than what shows it: the window, the page's main part, a text."""
    shown = "html, [data-testid=stMain], [data-testid=stText]"
    assert page.locator(shown).evaluate_all(WIDER) == []


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_light_or_dark_is_as_the_readers_system_has_it(visit, scheme, dark):
    page = visit(color_scheme=scheme)
    send(page, "Which nerve?")
    expect(page.get_by_text(SPEED)).to_have_count(2)
    button = page.get_by_role("button", name="Ask", exact=True)
    expect(button).to_be_enabled()
    drawn(page)
    page.evaluate(FADED)  # text is paler while the app works
    background = brightness(page.get_by_test_id("stApp"), "backgroundColor")
    texts = [page.get_by_test_id("stText").first, page.get_by_label("Clinical question")]
    assert (background < 60) == dark
    assert all((brightness(text, "color") > 180) == dark for text in texts)
    assert contrast(*(rgb(button, what) for what in ("color", "backgroundColor"))) >= 4.5  # WCAG 2.2, 1.4.3
    page = visit("evaluation", color_scheme=scheme)
    body = page.frame_locator("iframe").locator("body")
    assert rgb(body, "backgroundColor") == rgb(page.get_by_test_id("stApp"), "backgroundColor")  # the iframe is no box
    figure = Image.open(BytesIO(page.frame_locator("iframe").locator("figure img").first.screenshot())).convert("RGB")
    assert list(figure.getpixel((2, 2))) == rgb(body, "backgroundColor")  # nor is a figure


def brightness(element, what):
    """Mean of red, green and blue of a computed colour, 0 to 255."""
    return sum(rgb(element, what)) / 3


def rgb(element, what):
    """Red, green and blue of a computed colour."""
    colour = element.evaluate("(node, what) => getComputedStyle(node)[what]", what)
    return [int(part) for part in re.findall(r"\d+", colour)[:3]]


def contrast(one, other):
    """Of two colours, as WCAG defines it: 1 to 21."""
    lights = sorted(
        sum(
            share * (part / 3294.6 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4)
            for share, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
        )
        for colour in (one, other)
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


# ----------------------------------------------------------------------------------------------- the pages of a run


def test_the_page_of_a_notebook_runs_nothing_and_fetches_nothing(browser, models, tmp_path):
    elsewhere = models["base"]
    markup = MARKUP.replace("http://evil.example", elsewhere.url) + f' <iframe src="{elsewhere.url}"></iframe>'
    raw = f'{markup}<script src="{elsewhere.url}"></script><a href="javascript:alert(4)">raw</a>'
    shown = [as_markdown(markup, f"{markup}</think>{markup}"), f"**{quoted(markup)}.**"]
    outputs = [{"text/markdown": text} for text in (*shown, raw)] + [{"text/html": raw, "text/plain": ""}]
    cell = nbformat.v4.new_code_cell("x")
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    badge = nbformat.v4.new_markdown_cell(f"[![Open in Colab]({elsewhere.url}/badge.svg)](https://colab.example)")
    nbformat.write(nbformat.v4.new_notebook(cells=[badge, cell]), tmp_path / "page.ipynb")
    write_page(tmp_path / "page.ipynb")
    page, dialogs, before = browser.new_page(), [], elsewhere.gets
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto((tmp_path / "page.html").as_uri())
    for link in page.locator('a[href^="javascript:"]').all():
        link.click()
    page.wait_for_timeout(300)
    quotations = page.locator("blockquote")
    expect(quotations).to_have_text([markup] * 2)
    expect(quotations.locator("*:is(a, b, img, script, iframe)")).to_have_count(0)
    expect(page.get_by_role("link", name="Open in Colab")).to_have_count(1)
    expect(page.locator(".jp-MarkdownCell img")).to_have_count(0)
    page.close()
    assert not dialogs
    assert elsewhere.gets == before


def test_on_a_phone_code_and_figures_of_a_notebook_scroll_and_printed_words_stay_whole(browser, tmp_path):
    image = new_figure()[0].png()
    cell = nbformat.v4.new_code_cell(f"x = '{'long ' * 40}'")
    png = {"image/png": base64.b64encode(image).decode(), "text/plain": "a figure"}
    cell.outputs = [nbformat.v4.new_output("display_data", png)]
    cell.outputs += [nbformat.v4.new_output("stream", text="wholesome words " * 20 + "A" * 300)]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "page.ipynb")
    write_page(tmp_path / "page.ipynb")
    page = browser.new_page(viewport=PHONE)
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator("html, .jp-OutputArea-output pre").evaluate_all(WIDER) == []
    for shown in (".cm-editor", ".jp-RenderedImage"):
        page.locator(shown).hover()
        page.mouse.wheel(60, 0)
        expect(page.locator(shown)).to_have_js_property("scrollLeft", 60)
    assert page.locator("img").evaluate("img => img.width == img.naturalWidth")
    broken = page.locator(".jp-OutputArea-output pre").evaluate(
        "pre => { const text = pre.firstChild, range = document.createRange();"
        " return [...text.data.matchAll(/[a-z]+/g)].filter(word => { range.setStart(text, word.index);"
        " range.setEnd(text, word.index + word[0].length); return range.getClientRects().length > 1; }).length }"
    )
    assert broken == 0
    page.close()
