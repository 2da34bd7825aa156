"""The console in a real browser: headless Chromium asks, moves the threshold, watches calls, and meets hostile texts."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from ragcore import RAG, Document, MemoryStore, Settings
from ragcore.contrib import asgi
from ragcore.resilience import CircuitBreaker, Policy
from ragcore.testing import Fail, FakeEmbedder, FakeGenerator, FakeReranker, Hang, fake_rag

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="NOT TESTED: the console, because there is no chromium; install Debian's package chromium"),
]  # fmt: skip

TOKEN, MEMBER = "canary-token-7f3a!", "canary-member-token-51c0"
QUESTION = "What is my deductible?"
# The emoji is one character for Python and two for JavaScript, so it shifts wrong citations.
ANSWER = "😀😀 You pay 1,500 dollars a year before the plan pays [1]. A family pays more [2]."
EVIL = (
    "deductible <script>window.hit=1</script><img src=x onerror='window.hit=1'><svg onload=window.hit=1> "
    "</p></li><h1>out</h1> [link](javascript:window.hit=1) ![](http://example.invalid/x.png) <a href='//example.invalid'>x</a>"
)
WORDS = "deductible plan dental vision copay member claim network family year pay dollars hospital doctor card".split()


async def authenticate(scope: Any) -> asgi.Identity | None:
    token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
    return asgi.Identity("m", admin=token == TOKEN) if token in (TOKEN, MEMBER) else None


@dataclass
class Service:
    """A served client. The tests change its parts."""

    url: str
    rag: RAG
    embedder: FakeEmbedder
    generator: FakeGenerator


async def fill(rag: RAG) -> None:
    plan = Document("plan", f"{QUESTION} Your deductible is 1,500 dollars a year.", title="Plan", source="plan.md")
    family = Document("family", "What is the deductible of a family? It is 3,000 dollars.", title="Family")
    others = [
        Document(f"d{number}", " ".join(WORDS[: 2 + number % 11]) + f" {number}.", title=f"Document {number}")
        for number in range(40)
    ]
    await rag.add([plan, family, *others], tenant="m")
    await rag.add([Document(EVIL[:200], EVIL, title=EVIL, source="javascript:window.hit=1")], tenant=EVIL[:60])


@pytest.fixture
def service() -> Iterator[Service]:
    """Serve the application by uvicorn in a thread, mounted at `/` and at `/rag`."""
    embedder = FakeEmbedder()
    policy = Policy("generation", retry=False, breaker=CircuitBreaker(minimum_throughput=2, break_duration=60.0))
    generator = FakeGenerator(ANSWER, token_latency=0.03, policy=policy)
    rag = fake_rag(
        embedder=embedder, store=MemoryStore(), generator=generator, reranker=FakeReranker(), settings=Settings(watchdog=False, drain=0.0)
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = asgi.app(rag, authenticate=authenticate)
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Mount("/rag", app), Mount("/", app)]), port=port, log_level="warning", lifespan="off")
    )  # fmt: skip
    ready = threading.Event()

    async def serve() -> None:
        async with rag:
            await fill(rag)
            asyncio.get_running_loop().call_soon(ready.set)
            await server.serve()

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    try:
        assert ready.wait(30)
        while not server.started:
            assert thread.is_alive()
            thread.join(0.02)
        yield Service(f"http://127.0.0.1:{port}", rag, embedder, generator)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Containers have no user namespaces for the sandbox. Only pages of this test are opened.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Tab:
    """A page, and everything that it did."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def sent(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.url.endswith(path)]

    def violations(self) -> list[str]:
        found: list[str] = self.page.evaluate("window.violations")
        return found


Open = Callable[..., Tab]


@pytest.fixture
def opened(browser: Browser, service: Service) -> Iterator[Open]:
    """Return a function that opens the console in a new context. At the end, no page has left its origin, violated its policy, or failed."""
    tabs: list[Tab] = []

    def open_tab(path: str = "/debug/console", *, scheme: str = "light", width: int = 1280, clock: bool = False) -> Tab:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        tab = Tab(context.new_page())
        tab.page.add_init_script(
            "window.violations = [];"
            "document.addEventListener('securitypolicyviolation', (e) => violations.push(`${e.effectiveDirective} ${e.blockedURI}`))"
        )
        tab.page.on("request", lambda request: tab.requests.append(request))
        tab.page.on("pageerror", lambda error: tab.problems.append(f"error {error}"))
        tab.page.on("dialog", lambda dialog: tab.problems.append(f"dialog {dialog.message}"))
        tab.page.on("popup", lambda popup: tab.problems.append(f"popup {popup.url}"))
        if clock:  # the page's timers run only when the test says so
            tab.page.clock.install(time=0)
        tab.page.goto(service.url + path)
        if clock:
            tab.page.clock.pause_at(60_000)
        tabs.append(tab)
        return tab

    yield open_tab
    for tab in tabs:
        assert [one.url for one in tab.requests if not one.url.startswith((f"{service.url}/", "data:,"))] == []
        assert (tab.problems, tab.violations()) == ([], [])
        tab.page.context.close()


def sign_in(tab: Tab, token: str = TOKEN) -> Page:
    tab.page.get_by_label("Token").fill(token)
    tab.page.get_by_role("button", name="Sign in").click()
    return tab.page


def ask(page: Page, question: str = QUESTION) -> None:
    page.get_by_label("Question").fill(question)
    page.get_by_role("button", name="Ask", exact=True).click()


def answered(page: Page) -> None:
    expect(page.locator("#said")).to_have_text("The answer is complete.", timeout=15_000)


def measured(page: Page) -> None:
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Show similarity").click()
    expect(page.get_by_label("Threshold", exact=True)).to_be_visible()


def test_an_answer_streams_and_its_citations_lead_to_their_passages(service: Service, opened: Open) -> None:
    page = sign_in(opened())
    ask(page)
    text, answer = page.locator("#answer-text"), page.locator("#answer")
    expect(text).to_contain_text("You pay")
    # The passages and the first stages are shown while the model still writes.
    assert "[2]" not in text.inner_text()
    assert answer.get_attribute("aria-busy") == "true"
    assert page.locator("#passages li").count() == 5
    answered(page)
    assert (text.inner_text(), answer.get_attribute("aria-busy")) == (ANSWER, "false")
    links = page.locator("#answer-text a")
    assert [link.inner_text() for link in links.all()] == ["[1]", "[2]"]
    cited = page.locator("#passages li.cited")
    assert cited.count() == 2
    links.nth(1).click()
    expect(page.locator("#passage-2")).to_be_focused()
    first = page.locator("#passage-1").inner_text()
    assert re.search(r"score\n?\d\.\d{3}", first)
    assert "rerank score" in first
    assert "plan.md" in page.locator("#passages").inner_text()
    assert [row.inner_text() for row in page.locator("#stages tbody th").all()] == [
        "embed", "search", "rerank", "generate", "first token", "total",
    ]  # fmt: skip
    widths = [
        float(bar.evaluate("one => one.getBoundingClientRect().width"))
        for bar in page.locator("#stages .track div").all()
    ]
    assert widths[3] > 3 * widths[0]
    expect(page.locator("#answer-notes")).to_contain_text(service.rag.recent()[-1].id)


def test_stop_cancels_the_call(service: Service, opened: Open) -> None:
    service.generator.token_latency = 0.5
    page = sign_in(opened())
    ask(page)
    expect(page.locator("#answer-text")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#answer-error")).to_have_text("Stopped.")
    expect(page.locator("#recent")).to_contain_text("cancelled")


def test_the_slider_shows_how_many_chunks_pass_and_asks_with_its_threshold(service: Service, opened: Open) -> None:
    page = sign_in(opened())
    measured(page)
    slider, passing = page.get_by_label("Threshold", exact=True), page.locator("#passing")
    assert page.locator("#histogram rect").count() == 10
    counts = [row.inner_text() for row in page.locator("#bins td").all()]
    assert sum(map(int, page.locator("#bins td").all_text_contents())) == 42, counts

    def move(to: float) -> int:
        """Move the slider, and return the number that the service computes for the threshold."""
        with page.expect_response("**/debug/rag-similarity/m") as response:
            slider.fill(f"{to:.2f}")
        expect(passing).to_contain_text(f"pass a threshold of {to:.2f}.")
        said = response.value.json()
        assert said["score_threshold"] == to
        expect(passing).to_have_text(f"{said['passing']} of 42 chunks pass a threshold of {to:.2f}.")
        assert slider.get_attribute("aria-valuetext") == passing.inner_text()
        return int(said["passing"])

    low, high = move(0.2), move(0.55)
    assert low > high > 0
    slider.press("ArrowLeft")
    expect(passing).to_contain_text("0.54")
    page.get_by_role("button", name="Ask with this threshold").click()
    answered(page)
    expect(page.locator("#search-notes")).to_contain_text("threshold 0.54 (from the call)")


def test_the_live_view_follows_calls_and_breakers(service: Service, opened: Open) -> None:
    tab = opened()
    page = sign_in(tab)
    expect(page.locator("#health")).to_contain_text("database: healthy")
    expect(page.locator("#running")).to_contain_text("No call is running.")
    service.generator.faults.next(Hang())
    ask(page)
    running = page.locator("#running")
    expect(running).to_contain_text("generate")
    expect(running).to_contain_text("ragcore.")  # the function that the call awaits
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#recent tr").first).to_contain_text("cancelled")
    service.generator.faults.always(Fail(ConnectionResetError()))
    for _ in range(2):
        ask(page)
        answered(page)
    expect(page.locator("#answer-notes")).to_contain_text("generate degraded")
    row = page.locator("#dependencies tr", has_text="generation")
    expect(row).to_contain_text("open, probe in")
    expect(page.locator("#said")).to_contain_text("The breaker of generation fake is open.")


def run_until(tab: Tab, happened: Callable[[], bool]) -> None:
    """Let the page's clock run until something has happened, for at most four minutes of it."""
    for _ in range(480):
        if happened():
            return
        tab.page.clock.run_for(500)
    raise AssertionError(f"it did not happen; the page says {tab.page.locator('#updated').inner_text()!r}")


def next_poll(tab: Tab) -> None:
    before = len(tab.sent("/debug/status"))
    run_until(tab, lambda: len(tab.sent("/debug/status")) > before)


def polls_in(tab: Tab, seconds: int) -> int:
    """Let the page's clock run, and return the number of polls."""
    before = len(tab.sent("/debug/status"))
    for _ in range(seconds):
        tab.page.clock.run_for(1_000)
    return len(tab.sent("/debug/status")) - before


def test_polling_pauses_on_demand_and_while_the_tab_is_hidden(opened: Open) -> None:
    tab = opened(clock=True)
    page = sign_in(tab)
    updated = page.locator("#updated")
    expect(updated).to_contain_text("updated")

    def hide(hidden: bool) -> None:
        page.evaluate(
            "(hidden) => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
            "document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    for _ in range(3):
        next_poll(tab)
    hide(True)
    expect(updated).to_have_text("paused while the tab is hidden")
    assert polls_in(tab, 10) == 0
    with page.expect_response("**/debug/status"):
        hide(False)
    next_poll(tab)
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    assert pause.get_attribute("aria-pressed") == "true"
    assert polls_in(tab, 10) == 0
    hide(True)
    hide(False)
    assert polls_in(tab, 10) == 0  # the user's pause goes on
    with page.expect_response("**/debug/status"):
        pause.click()
    next_poll(tab)


def test_polling_slows_down_while_the_service_fails_and_stops_when_the_token_expires(opened: Open) -> None:
    tab = opened(clock=True)
    page = sign_in(tab)
    updated = page.locator("#updated")
    expect(updated).to_contain_text("updated")
    page.route("**/debug/status", lambda route: route.abort())
    for seconds in (4, 8, 16, 30):
        run_until(tab, lambda: f"next attempt in {seconds} s" in updated.inner_text())  # noqa: B023
    assert 1 <= polls_in(tab, 300) <= 10
    page.unroute_all(behavior="wait")
    run_until(tab, lambda: "every 2 s" in updated.inner_text())
    page.route(
        "**/debug/status", lambda route: route.fulfill(status=401, json={"error": "Unauthorized", "message": "x"})
    )
    run_until(tab, lambda: "sign in again" in updated.inner_text())
    assert polls_in(tab, 60) == 0


def test_hostile_texts_of_documents_models_and_tenants_stay_texts(service: Service, opened: Open) -> None:
    service.generator.text = f"{EVIL} [1]"
    tab = opened()
    page = sign_in(tab)
    page.get_by_label("Tenant").fill(EVIL[:60])
    measured(page)
    ask(page)
    answered(page)
    expect(page.locator("#recent")).to_contain_text("<script>")
    assert EVIL.strip() in page.locator("#answer-text").inner_text()
    passage = page.locator("#passage-1").inner_text()
    assert passage.count("<script>window.hit=1</script>") == 4  # title, document id, chunk id, text
    assert "javascript:window.hit=1" in passage
    service.embedder.faults.always(Fail(RuntimeError(EVIL)))
    ask(page, f"{EVIL} again")
    expect(page.locator("#recent tr").first).to_contain_text("degraded")
    assert page.evaluate("window.hit") is None
    assert page.locator("main#console :is(script, img, iframe, object, embed, base, h1)").count() == 0
    assert page.locator("svg").count() == 1
    hrefs = [link.get_attribute("href") or "" for link in page.locator("a").all()]
    assert [href for href in hrefs if not re.fullmatch(r"#(question|passage-\d+)", href)] == []


def test_hostile_values_of_the_status_and_of_a_rollout_stay_texts(opened: Open) -> None:
    tab = opened()
    page = sign_in(tab)
    expect(page.locator("#rollout-part")).to_be_hidden()

    def spoilt(route: Any) -> None:
        shown = route.fetch().json()
        breaker = {**shown["policies"]["embedding"]["breaker"], "state": EVIL}
        shown["policies"][EVIL] = {**shown["policies"]["embedding"], "breaker": breaker, "keys": {EVIL: breaker}}
        side = {"calls": 12, "failed": 1, "hung": 0, "degraded": 0, "p50": 0.1234567, "p95": None}
        state = {
            "name": EVIL,
            "status": "rolled_back",
            "share": 0.05,
            "steps": [0.05, 1.0],
            "reason": EVIL,
            "version": 3,
        }
        shown["rollout"] = {
            "state": state,
            "stable": side,
            "candidate": {**side, "calls": EVIL},
            "compared": 7,
            "differ": {EVIL: 2},
        }
        route.fulfill(json=shown)

    page.route("**/debug/status", spoilt)
    expect(page.locator("#dependencies")).to_contain_text("<script>")
    expect(page.locator("#rollout-state")).to_contain_text("rolled back The candidate gets 5 % (steps 5 %, 100 %).")
    assert page.locator("#rollout-names").inner_text().split() == [
        "side",
        *"calls failed hung degraded p50 p95".split(),
    ]
    assert page.locator("#rollout-sides tr").first.inner_text().split() == ["stable", "12", "1", "0", "0", "0.123", "–"]
    expect(page.locator("#rollout")).to_contain_text("compared")
    assert Axe().run(page).response["violations"] == []
    assert page.evaluate("window.hit") is None
    page.unroute_all(behavior="wait")
    expect(page.locator("#rollout-part")).to_be_hidden()


def test_the_policy_blocks_injected_scripts_styles_requests_and_html(opened: Open) -> None:
    """The other tests assert that nothing is blocked. This one shows that they would notice."""
    tab = opened()
    page = tab.page
    page.evaluate(
        """async () => {
          const script = document.createElement('script');
          try { script.text = 'window.hit = 1'; } catch { /* trusted types */ }
          document.body.append(script);
          try { document.body.setAttribute('onclick', 'window.hit = 1'); } catch { /* trusted types */ }
          document.body.setAttribute('style', 'color: red');
          document.body.click();
          try { document.body.innerHTML = '<img>'; } catch { /* trusted types */ }
          try { await fetch('http://127.0.0.1:9/'); } catch { /* blocked */ }
          await new Promise((resolve) => setTimeout(resolve, 100));
        }"""
    )
    found = " ".join(tab.violations())
    for directive in ("style-src-attr", "connect-src", "require-trusted-types-for"):
        assert directive in found, found
    assert page.evaluate("window.hit") is None
    page.evaluate("window.violations.length = 0")


def test_no_other_page_can_show_the_console_in_a_frame(browser: Browser, service: Service) -> None:
    page = browser.new_page()
    page.set_content(f"<iframe src='{service.url}/debug/console'></iframe>")
    page.wait_for_timeout(500)
    assert all("Sign in" not in frame.content() for frame in page.frames[1:])
    page.close()


def test_the_token_exists_in_memory_only(service: Service, opened: Open) -> None:
    tab = opened()
    page = sign_in(tab)
    ask(page)
    answered(page)
    for request in tab.requests:
        assert TOKEN not in request.url
        assert TOKEN not in (request.post_data or "")
        assert ("authorization" in request.all_headers()) == (
            not request.url.endswith("/debug/console")
        ) or request.url == "data:,"
    kept = page.evaluate(
        """async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state, await caches.keys(),
          (await indexedDB.databases()).length, [...document.querySelectorAll('input')].map((one) => one.value), document.documentElement.outerHTML])"""
    )
    assert TOKEN not in kept
    assert page.context.storage_state() == {"cookies": [], "origins": []}
    page.reload()
    expect(page.get_by_label("Token")).to_have_value("")
    assert page.locator("#console").is_hidden()
    assert ANSWER not in page.content()
    page = sign_in(tab)
    expect(page.get_by_label("Question")).to_be_focused()
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.locator("#tenant")).to_have_value("")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("wrong", "The service does not accept this token."),
        ("", "The service does not accept this token."),
        (MEMBER, "This token does not belong to an administrator."),
        ("not a header: ☃", "Sign-in failed"),
    ],
)
def test_a_token_that_is_refused_shows_nothing_but_the_reason(opened: Open, token: str, said: str) -> None:
    tab = opened(clock=True)
    page = sign_in(tab, token)
    expect(page.get_by_role("alert").first).to_contain_text(said)
    assert page.locator("#console").is_hidden()
    page.clock.run_for(60_000)
    assert len(tab.sent("/debug/status")) <= 1


def test_the_token_does_not_follow_a_redirect(opened: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(1.0)
        where = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/stolen"
        tab = opened()
        tab.page.route(
            "**/debug/status",
            lambda route: route.fulfill(status=307, headers={"location": where, "access-control-allow-origin": "*"}),
        )
        page = sign_in(tab)
        expect(page.get_by_role("alert").first).to_contain_text("Sign-in failed")
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_the_console_works_below_a_mount_point(service: Service, opened: Open) -> None:
    for path in ("/rag/debug/console", "/rag/debug/console/"):
        tab = opened(path)
        page = sign_in(tab)
        ask(page)
        answered(page)
        measured(page)
        paths = {request.url.removeprefix(service.url) for request in tab.requests if request.url != "data:,"}
        assert len(paths) > 4
        assert [one for one in paths if not one.startswith(("/rag/debug/", "/rag/health"))] == []


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (400, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.thorough),
        pytest.param(400, "light", marks=pytest.mark.thorough),
    ],
)
def test_the_console_is_accessible(service: Service, opened: Open, scheme: str, width: int) -> None:
    """axe-core finds no violation in any state of the page, and the page does not scroll sideways."""
    tab = opened(scheme=scheme, width=width)
    page = tab.page

    def check() -> None:
        results = Axe().run(page)
        assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in results.response["violations"]] == []
        assert len(results.response["passes"]) > 15
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    check()
    sign_in(tab, "wrong")
    expect(page.get_by_role("alert").first).not_to_be_empty()
    check()
    sign_in(tab)
    expect(page.locator("#health")).not_to_be_empty()
    check()
    measured(page)
    page.get_by_text("Scores by range").click()
    ask(page)
    answered(page)
    check()
    service.generator.faults.always(Fail(ConnectionResetError()))
    for _ in range(2):
        ask(page)
        # The breaker opens, and that message may replace the one about the answer.
        said = re.compile("The answer is complete|The breaker of generation fake is open")
        expect(page.locator("#said")).to_have_text(said, timeout=15_000)
    page.get_by_label("Tenant").fill("tenant without documents")
    page.get_by_role("button", name="Show similarity").click()
    expect(page.locator("#verdict")).to_contain_text("no")
    expect(page.locator("#chart")).to_be_hidden()
    check()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(15, 18, 21)") == (scheme == "dark")


def test_the_console_works_with_the_keyboard_alone(opened: Open) -> None:
    page = opened().page
    keys = page.keyboard

    def focused() -> str:
        name: str = page.evaluate(
            "(() => { const one = document.activeElement; return one.id || one.getAttribute('aria-labelledby') || one.textContent; })()"
        )
        # Each focused element has a visible outline.
        outline = page.evaluate(
            "(() => { const one = getComputedStyle(document.activeElement); return [one.outlineStyle, parseFloat(one.outlineWidth)]; })()"
        )
        assert outline == ["solid", 3], (name, outline)
        return name

    keys.press("Tab")
    assert focused() == "token"
    keys.type(TOKEN)
    keys.press("Enter")
    expect(page.get_by_label("Question")).to_be_focused()
    keys.type(QUESTION)
    keys.press("Control+Enter")
    answered(page)
    order = []
    for _ in range(7):
        keys.press("Tab")
        order.append(focused())
    assert order == ["tenant", "ask-button", "measure", "[1]", "[2]", "pause", "dependencies-title"]
    keys.press("Shift+Tab")
    keys.press("Shift+Tab")
    keys.press("Enter")
    expect(page.locator("#passage-2")).to_be_focused()
    page.locator("#measure").focus()
    keys.press("Space")
    slider = page.get_by_label("Threshold", exact=True)
    expect(slider).to_be_visible()
    for _ in range(3):
        keys.press("Tab")
    assert focused() == "threshold"
    before = slider.input_value()
    keys.press("ArrowRight")
    assert float(slider.input_value()) == pytest.approx(float(before) + 0.01)
    order = []
    for _ in range(6):
        keys.press("Tab")
        order.append(focused())
    assert order == ["ask-with", "Scores by range", "pause", "dependencies-title", "running-title", "recent-title"]


def test_a_screen_reader_hears_the_progress(opened: Open) -> None:
    page = sign_in(opened())
    page.evaluate(
        "(() => { window.heard = []; const said = document.getElementById('said');"
        "new MutationObserver(() => heard.push(said.textContent)).observe(said, { childList: true }); })()"
    )
    ask(page)
    answered(page)
    assert page.evaluate("heard") == ["Searching.", "5 passages found. The model answers.", "The answer is complete."]
    # The answer is read once, when it is complete, and not word by word.
    assert page.locator("#answer").get_attribute("aria-live") == "polite"
    assert page.locator("#said").get_attribute("role") == "status"
