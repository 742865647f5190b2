"""The page to try a model on, in a real browser: what each task shows, by mouse and by keyboard, in two languages.

Needs Chromium (``apt-get install chromium``) and playwright, which the extra ``dev`` brings.
"""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from burnish_serve.http.page import page as served

playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'burnish[dev]' brings playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
TOKEN = "open"  # noqa: S105  # of a server of the test's own
EMOJI = "😀 Ada met e\u0301mile in Paris"


def known(task: str, columns: tuple[str, ...] = ("text",), options: tuple[str, ...] = ()) -> dict:
    return {
        "name": task,
        "ready": True,
        "task": task,
        "variant": "int8",
        "columns": list(columns),
        "options": list(options),
    }


MODELS = [
    known("text-classification", options=("top_k", "reject_below")),
    known("multi-label-classification", options=("top_k",)),
    known("regression", ("text_a", "text_b"), ("top_k",)),
    known("relation-extraction", options=("top_k",)),
    known("token-classification"),
    known("question-answering", ("question", "context"), ("top_k",)),
    known("feature-extraction"),
    known("fill-mask", options=("top_k", "targets")),
]
SPANS = [
    {"entity_group": "person", "score": 0.97, "word": "ada", "start": 2, "end": 5},
    {"entity_group": "place", "score": 0.5, "word": "paris", "start": 20, "end": 25},
]
ANSWERS = {
    "text-classification": [{"label": "<b>good</b>", "score": 0.75}, {"label": "bad", "score": 0.25}],
    "multi-label-classification": [],
    "regression": [{"label": "LABEL_0", "score": 3.5}],
    "relation-extraction": [{"label": "Cause-Effect(e1,e2)", "score": 0.9}],
    "token-classification": SPANS,
    "question-answering": [{"score": 0.9, "start": 2, "end": 5, "answer": "Ada"}],
    "feature-extraction": [[0.25] * 384],
    "fill-mask": [{"token_str": "film", "score": 0.8, "token": 7, "sequence": "a film"}],
}


class Handler(BaseHTTPRequestHandler):
    """Answers as the server does; ``asked`` holds what came."""

    asked: list[tuple[str, dict]] = []  # noqa: RUF012  # of all requests
    token: str | None = None

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def json(self, value: object, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def allowed(self) -> bool:
        right = self.token is None or self.headers.get("Authorization") == f"Bearer {self.token}"
        if not right:
            self.json({"error": "a bearer token is needed", "code": "token"}, 401)
        return right

    def do_GET(self) -> None:
        if self.path == "/":
            self.reply(200, *served())
        elif self.path == "/v1/models":
            if self.allowed():
                self.json({"models": MODELS})
        else:
            self.json({"error": "there is nothing here", "code": "not_found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body))
        if not self.allowed():
            return
        if any("refuse" in str(row) for row in body["rows"]):
            self.json({"error": "more requests wait than may", "code": "busy"}, 429)
            return
        answers = [ANSWERS[body["model"]] for _ in body["rows"]]
        self.json({"model": body["model"], "answers": answers, "truncated": [len(answers) - 1] * (len(answers) > 2)})

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address():
    Handler.asked, Handler.token = [], None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def page(browser, address):
    """Return the page, opened; nothing may be asked of another host, and nothing may go wrong in it."""
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    page.set_default_timeout(10_000)
    strange: list[str] = []
    page.on("request", lambda request: strange.extend([request.url] * (not request.url.startswith(address))))
    page.on("pageerror", lambda error: strange.append(str(error)))
    page.on("console", lambda message: strange.extend([message.text] * ("Content Security" in message.text)))
    page.goto(address)
    page.wait_for_selector("#fields textarea, #who:not([hidden])")
    yield page
    context.close()
    assert not strange


def ask(page, task: str, **texts: str):
    """Ask a model, and return what is shown."""
    page.get_by_label("Model", exact=True).select_option(task)
    for label, text in texts.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(text)
    page.get_by_role("button", name="Answer").click()
    page.wait_for_selector("#answers:not([hidden])")
    return page.locator("#list")


def test_labels_are_bars(page):
    shown = ask(page, "text-classification", Text="great <i>film</i>")
    assert shown.get_by_role("meter").evaluate_all("all => all.map(one => [one.ariaLabel, one.value])") == [
        ["<b>good</b> 0.750", 0.75],
        ["bad 0.250", 0.25],
    ]
    assert shown.locator("article > p").inner_text() == "great <i>film</i>"
    assert Handler.asked == [
        (
            "/v1/predict",
            {"model": "text-classification", "rows": [{"text": "great <i>film</i>"}], "options": {"top_k": 5}},
        )
    ]


def test_several_labels_or_none(page):
    shown = ask(page, "multi-label-classification", Text="a film")
    assert "No label reaches its threshold" in shown.inner_text()
    assert Handler.asked[0][1]["options"] == {}


def test_numbers_of_pairs(page):
    shown = ask(page, "regression", First_text="one", Second_text="other")
    assert "3.500" in shown.inner_text()
    assert shown.get_by_role("meter").count() == 0, "it is no share"
    assert Handler.asked[0][1]["rows"] == [{"text_a": "one", "text_b": "other"}]


def test_relations(page):
    assert "Cause-Effect(e1,e2)" in ask(page, "relation-extraction", Text="<e1>a</e1> of <e2>b</e2>").inner_text()


def test_entities_are_marked_where_they_stand(page):
    shown = ask(page, "token-classification", Text=EMOJI)
    marks = shown.locator("mark").evaluate_all(
        "all => all.map(one => [one.firstChild.data, one.dataset.start, one.title])"
    )
    assert marks == [["Ada", "2", "characters 2 to 5"], ["Paris", "20", "characters 20 to 25"]]
    assert "person: Ada (characters 2 to 5, 0.970)" in shown.inner_text()


def test_answers_are_marked_in_the_context(page):
    shown = ask(page, "question-answering", Question="Who met him?", Context=EMOJI)
    assert shown.locator("mark").evaluate("one => one.firstChild.data") == "Ada"
    assert shown.locator("strong").inner_text() == "Ada"
    assert page.locator("#several").is_hidden()


def test_vectors(page):
    assert "A vector of 384 numbers" in ask(page, "feature-extraction", Text="a").inner_text()


def test_masked_words(page):
    assert "film" in ask(page, "fill-mask", Text="a [MASK]").inner_text()


def test_several_texts_by_keyboard_alone(page):
    page.keyboard.press("Tab")
    for _ in range(10):
        if page.evaluate("document.activeElement.id") == "column-text":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("one\n\ntwo\nthree")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("article:nth-of-type(3)")
    assert [row["text"] for row in Handler.asked[0][1]["rows"]] == ["one", "two", "three"]
    assert "The text was cut" in page.locator("article:nth-of-type(3)").inner_text()
    assert "3 answers in" in page.get_by_role("status").inner_text()


def test_in_chinese_too(page):
    ask(page, "token-classification", Text=EMOJI)
    page.get_by_label("Language").select_option("zh")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    assert page.get_by_role("button").inner_text() == "回答"
    assert page.locator("mark").first.get_attribute("title") == "第 2 到第 5 个字符"
    english, chinese = (page.evaluate(f"Object.keys(SAYS.{name}).sort()") for name in ("en", "zh"))
    assert english == chinese


def test_refusals_are_shown_and_the_page_goes_on(page):
    page.get_by_label("Text", exact=True).fill("refuse")
    page.get_by_role("button").click()
    page.wait_for_selector("#status.fault")
    assert page.get_by_role("status").inner_text() == "more requests wait than may"
    page.get_by_label("Text", exact=True).fill(" ")
    page.get_by_role("button").click()
    assert page.get_by_role("status").inner_text() == "There is nothing to answer"
    assert ask(page, "text-classification", Text="fine").locator("article").count() == 1


def test_a_token_is_asked_for(browser, address):
    Handler.token = TOKEN
    with browser.new_context(locale="zh-CN") as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#who:not([hidden])")
        page.get_by_label("访问令牌").fill(TOKEN)
        page.get_by_label("访问令牌").press("Tab")
        page.wait_for_selector("#fields textarea")
        page.get_by_label("文本", exact=True).fill("一部电影")
        page.get_by_role("button").click()
        page.wait_for_selector("article")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(browser, address, scheme):
    """Ink on paper and faults on paper have a contrast of 4.5 at least (WCAG 2.2, 1.4.3)."""
    contrast = """() => {
      const light = color => {
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
          .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const of = node => [light(getComputedStyle(node).color), light(getComputedStyle(node).backgroundColor)];
      const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      const paper = light(getComputedStyle(document.body).backgroundColor);
      document.getElementById("status").className = "fault";
      return [ratio(...of(document.body)), ratio(...of(document.querySelector("button"))),
        ratio(light(getComputedStyle(document.getElementById("status")).color), paper)];
    }"""
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("#fields textarea")
        found = page.evaluate(contrast)
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert min(found) >= 4.5, found
    assert (dark == "rgb(23, 25, 27)") is (scheme == "dark")
