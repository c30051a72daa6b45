"""The page demo/ in Chromium: its networks, its faults, and what can be done without a mouse."""

import copy
import hashlib
import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from test_browser import AXE, DESKTOP, PHONE, STICKING_OUT

from slimcnn import data, deploy

TOLERANCE = 1e-3  # between logits here and in native ONNX Runtime
NETWORKS = ["resnet14", "pruned", "distilled", "resnet14-int8", "student-int8"]

LOGITS = """async ([id, pictures]) => {
  const { networks } = await window.demo;
  const network = networks.find((network) => network.id === id);
  const found = [];
  for (const pixels of pictures) found.push(await network.logits(pixels));
  return found;
}"""
PIXELS = """() => {
  const canvas = document.querySelector("#demo-canvas");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [...data].filter((_, i) => i % 4 === 0);
}"""
# The theme may move, too, while its own styles come: what the page fills in waits for them.
LATE = """
const ready = new Promise((resolve) => {
  addEventListener("load", () => setTimeout(() => {
    window.began = performance.now();
    resolve();
  }, 500));
});
const original = window.fetch;
window.fetch = async (...given) => {
  await ready;
  return original(...given);
};
"""
SHIFTS = """() => new Promise((resolve) => {
  const moved = [];
  new PerformanceObserver((list) => {
    for (const { startTime, value, sources } of list.getEntries()) {
      if (startTime > window.began) moved.push([value, sources.map(({ node }) => node?.className)]);
    }
  }).observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(moved), 300);
})"""


def _answering(answer: dict):
    """A handler that answers a request in place of the server."""
    return lambda route: route.fulfill(**answer)


@pytest.fixture
def demo(browser, base_url):
    """`with demo() as tab`: the page, ready, with the addresses it asked for and what it said."""

    @contextmanager
    def visit(routes=None, script=None, viewport=DESKTOP, theme="light"):
        with browser.new_context(viewport=viewport, color_scheme=theme) as context:
            tab = context.new_page()
            tab.set_default_timeout(60_000)  # ms; a busy machine is no fault of the page
            tab.asked, tab.said = [], []
            tab.on("request", lambda request: tab.asked.append(request.url))
            tab.on("pageerror", lambda error: tab.said.append(str(error)))
            for pattern, answer in (routes or {}).items():
                tab.route(pattern, _answering(answer))
            if script:
                tab.add_init_script(script)
            tab.goto(f"{base_url}demo/")
            tab.evaluate("async () => { await window.demo; }")
            yield tab
            assert tab.said == []  # whatever happened, it was no error of the script

    return visit


@pytest.fixture
def loaded(demo, runtime):
    """The same with all networks loaded, and asked about the first picture."""

    @contextmanager
    def visit(**options):
        with demo(**options) as tab:
            tab.click("#demo-load")
            tab.wait_for_selector("#demo-copy:enabled")
            tab.wait_for_selector(".answer")
            yield tab

    return visit


@pytest.fixture(scope="module")
def description(site) -> dict:
    """What scripts/demo.py wrote."""
    return json.loads((site / "_static" / "networks" / "demo.json").read_text(encoding="utf-8"))


def cell(tab, network: str, label: str) -> str:
    """The text of a cell."""
    return tab.inner_text(f'tr[data-network="{network}"] [data-label="{label}"]')


def said(tab, text: str) -> None:
    """Wait until a screen reader is told something that begins like this."""
    tab.wait_for_function(
        "text => document.querySelector('#demo-says').textContent.startsWith(text)", arg=text
    )


def test_nothing_is_loaded_until_it_is_asked_for(demo, runtime, description, base_url):
    with demo() as tab:
        before = list(tab.asked)
        tab.click("#demo-load")
        tab.wait_for_selector("#demo-copy:enabled")
        after = tab.asked[len(before) :]
        assert not [url for url in before if ".onnx" in url or "onnxruntime" in url]
        assert all(url.startswith((base_url, "data:", "blob:")) for url in tab.asked)
        names = [url.rpartition("/")[2].partition("?")[0] for url in after]
        # the browser asks for the page's icon when it likes
        assert sorted(name for name in names if name != "favicon.svg") == sorted(
            [file.name for file in runtime.iterdir() if file.suffix in (".mjs", ".wasm")]
            + [network["file"] for network in description["networks"]]
        )


def test_page_says_what_loading_costs(demo, runtime, description):
    networks = sum(network["bytes"] for network in description["networks"])
    whole = networks + sum(
        file.stat().st_size for file in runtime.iterdir() if file.suffix in (".mjs", ".wasm")
    )
    with demo() as tab:
        said = tab.inner_text("#demo-size")
        assert f"fetches {whole / 1e6:.1f} MB" in said
        assert f"networks are {networks / 1e6:.2f} MB" in said


def test_logits_are_those_of_native_onnx_runtime(loaded, site, description):
    images = data.load("test").subset(20).images
    pictures = images.reshape(len(images), -1).tolist()
    found = {}
    with loaded() as tab:
        for network in description["networks"]:
            program = deploy.ONNXRuntime().load(site / "_static" / "networks" / network["file"])
            native = program(data.normalize(images)).numpy()
            found[network["id"]] = np.array(tab.evaluate(LOGITS, [network["id"], pictures]))
            difference = np.abs(found[network["id"]] - native).max()
            assert difference <= TOLERANCE, f"{network['id']}: {difference}"
    assert list(found) == NETWORKS
    # The tolerance tells the networks apart, int8 from float32, too.
    assert np.abs(found["resnet14"] - found["resnet14-int8"]).max() > 10 * TOLERANCE


def test_table_shows_files_accuracies_and_answers(loaded, description):
    with loaded() as tab:
        tab.click('button[title="Ankle boot 1"]')
        said(tab, "test image, Ankle boot 1. ResNet-14:")
        assert tab.inner_text("#demo-caption") == "test image, Ankle boot 1"
        pixels = tab.evaluate(PIXELS)
        for network in description["networks"]:
            logits = np.array(tab.evaluate(LOGITS, [network["id"], [pixels]])[0])
            shares = np.exp(logits) / np.exp(logits).sum()
            best = int(shares.argmax())
            answer = cell(tab, network["id"], "Answer").split("\n")
            assert answer[0] == description["classes"][best]
            assert f"{100 * shares[best]:.1f} %" in answer[1]
            assert cell(tab, network["id"], "Test accuracy") == f"{network['accuracy']:.2f} %"
            size = f"{network['bytes'] / 1e3:.3g} kB"
            if network["bytes"] >= 1e6:
                size = f"{network['bytes'] / 1e6:.3g} MB"
            assert cell(tab, network["id"], "File") == size


GARBAGE = {"status": 200, "body": b"\x08" + bytes(2_788_067)}
GONE = {"status": 404, "body": "gone"}


@pytest.mark.parametrize(("answer", "fault"), [(GARBAGE, "is damaged"), (GONE, "is missing")])
def test_a_broken_network_says_so_and_the_others_answer(loaded, answer, fault):
    with loaded(routes={"**/resnet14.onnx*": answer}) as tab:
        assert fault in cell(tab, "resnet14", "Answer")
        assert tab.inner_text("#demo-size").startswith("4 of 5 networks")
        tab.click('button[title="Trouser 1"]')
        said(tab, "test image, Trouser 1. Pruned:")
        for network in NETWORKS[1:]:
            assert cell(tab, network, "Answer").startswith("Trouser")


def test_a_file_that_no_runtime_can_read_says_so(loaded, description):
    content = b"abcd"
    changed = copy.deepcopy(description)
    changed["networks"][1] |= {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    routes = {
        "**/demo.json": {"status": 200, "body": json.dumps(changed)},
        "**/pruned.onnx*": {"status": 200, "body": content},
    }
    with loaded(routes=routes) as tab:
        assert tab.inner_text("#demo-size").startswith("4 of 5 networks")
        assert cell(tab, "pruned", "Answer") not in ("", "–")
        assert cell(tab, "distilled", "Answer").startswith("T-shirt/top")


def test_without_webassembly_the_page_says_so(demo):
    with demo(script="delete globalThis.WebAssembly") as tab:
        assert "no WebAssembly" in tab.inner_text("#demo-error")
        assert tab.is_disabled("#demo-load")
        tab.click('button[title="Bag 1"]')
        assert tab.inner_text("#demo-caption") == "test image, Bag 1"


def test_a_site_without_the_runtime_says_so(demo, description):
    bare = {"status": 200, "body": json.dumps(description | {"runtime": None})}
    with demo(routes={"**/demo.json": bare}) as tab:
        assert "without ONNX Runtime Web" in tab.inner_text("#demo-error")
        assert tab.is_disabled("#demo-load")


@pytest.mark.parametrize("file", ["ort-wasm-simd-threaded.wasm", "ort.wasm.bundle.min.mjs"])
def test_a_runtime_that_does_not_come_says_so(demo, runtime, file):
    with demo(routes={f"**/{file}": GONE}) as tab:
        tab.click("#demo-load")
        tab.wait_for_selector("#demo-error:not(:empty)")
        assert "ONNX Runtime Web did not start" in tab.inner_text("#demo-error")
        tab.click("#demo-clear")
        assert tab.inner_text("#demo-caption") == "empty"


def test_without_its_description_the_page_says_so(demo):
    with demo(routes={"**/demo.json": GONE}) as tab:
        assert "demo.json is missing" in tab.inner_text("#demo-error")


def focused(tab) -> str:
    """The id of the element that has the focus."""
    return tab.evaluate("document.activeElement.id")


def tab_to(tab, target: str, key: str = "Tab") -> None:
    """Press the key until an element has the focus, as a reader without a mouse has to."""
    for _ in range(150):
        if focused(tab) == target:
            return
        tab.keyboard.press(key)
    raise AssertionError(f"#{target} cannot be reached with {key}")


def test_keys_alone_draw_and_ask(demo, runtime):
    with demo() as tab:
        tab_to(tab, "demo-clear")
        tab.keyboard.press("Enter")
        tab_to(tab, "demo-canvas", "Shift+Tab")
        assert tab.is_visible("#demo-cursor")
        scrolled = tab.evaluate("scrollY")
        tab.keyboard.press("ArrowLeft")  # from row 15, column 15: rows and columns count from 1
        assert "Column 14, row 15, 0 % white" in tab.inner_text("#demo-says")
        tab.keyboard.press("Space")
        assert "Column 14, row 15, 100 % white" in tab.inner_text("#demo-says")
        for _ in range(3):
            tab.keyboard.press("Shift+ArrowDown")
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Delete")
        picture = np.array(tab.evaluate(PIXELS)).reshape(28, 28)
        assert (picture[14:18, 13] == 255).all()
        assert picture[17, 14] == 0 and picture[:12].max() == 0
        assert tab.evaluate("scrollY") == scrolled
        tab_to(tab, "demo-load")
        tab.keyboard.press("Enter")
        tab.wait_for_selector(".answer")
        assert tab.inner_text("#demo-caption") == "drawing"
        said(tab, "drawing. ResNet-14:")
        assert all(cell(tab, network, "Answer") not in ("", "–") for network in NETWORKS)


def test_a_pen_draws_where_it_goes(demo):
    with demo() as tab:
        tab.click("#demo-clear")
        box = tab.locator("#demo-canvas").bounding_box()
        pixel = box["width"] / 28
        tab.mouse.move(box["x"] + 5.5 * pixel, box["y"] + 10.5 * pixel)
        tab.mouse.down()
        tab.mouse.move(box["x"] + 20.5 * pixel, box["y"] + 10.5 * pixel)
        tab.mouse.up()
        tab.mouse.move(box["x"] + 20.5 * pixel, box["y"] + 20.5 * pixel)
        picture = np.array(tab.evaluate(PIXELS)).reshape(28, 28)
        assert (picture[10, 5:21] > 250).all()
        assert picture[13:].max() == 0 and picture[:, 23:].max() == 0


@pytest.mark.parametrize("light", [True, False])
def test_a_photo_is_shrunk_by_averages(demo, light):
    gray = np.random.default_rng(0).integers(0, 200, (80, 56), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(gray).convert("RGB").save(content, "PNG")
    photo = {"name": "a.png", "mimeType": "image/png", "buffer": content.getvalue()}
    means = gray[12:68].reshape(28, 2, 28, 2).mean((1, 3))  # the middle square
    expected = 255 - 255 * means / means.max() if light else means
    with demo() as tab:
        tab.set_checked("#demo-light", light)
        tab.set_input_files("#demo-file", photo)
        tab.wait_for_selector("#demo-caption:text('photo')")
        found = np.array(tab.evaluate(PIXELS)).reshape(28, 28)
        assert np.abs(found - expected).max() <= 1.5


def test_a_file_that_is_no_picture_says_so(demo):
    with demo() as tab:
        text = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
        tab.set_input_files("#demo-file", text)
        tab.wait_for_selector("#demo-error:not(:empty)")
        assert tab.inner_text("#demo-error").startswith("notes.txt is no picture")
        tab.click('button[title="Coat 2"]')
        assert tab.inner_text("#demo-caption") == "test image, Coat 2"


BLOCKS = "async () => (await import('../_static/demo/networks.js')).BLOCKS"
TIMES = "async () => (await window.demo).networks.map(({ times }) => times)"


def test_times_are_medians_of_a_hundred_runs_or_more(loaded):
    with loaded() as tab:
        tab.click("#demo-measure")
        tab.wait_for_selector("#demo-by-time:checked")
        times = tab.evaluate(TIMES)
        assert all(0 < t["low"] <= t["median"] <= t["high"] for t in times)
        blocks = tab.evaluate(BLOCKS)
        assert all(blocks * t["runs"] >= 100 for t in times)
        for network, t in zip(NETWORKS, times, strict=True):
            shown, spread = cell(tab, network, "Time").split("\n")
            assert float(shown.removesuffix(" ms")) == pytest.approx(t["median"], rel=0.01)
            assert [float(x) for x in spread.split(" to ")] == pytest.approx(
                [t["low"], t["high"]], rel=0.01
            )
        chart = tab.get_attribute("#demo-chart", "aria-label")
        assert "time on this device" in chart and chart.count(" ms (") == 5
        assert tab.locator("#demo-chart circle").count() == 5
        tab.check('input[name="demo-axis"] >> nth=0')
        assert "size of the file" in tab.get_attribute("#demo-chart", "aria-label")


@pytest.mark.parametrize("allowed", [True, False])
def test_the_result_is_copied_or_shown(loaded, description, allowed):
    written = "async (text) => { window.copied = text; }"
    refused = "async () => { throw new Error('refused'); }"
    script = f"navigator.clipboard.writeText = {written if allowed else refused};"
    with loaded(script=script) as tab:
        tab.click("#demo-copy")
        tab.wait_for_selector("#demo-copied:not(:empty)")
        assert tab.is_visible("#demo-text") != allowed
        assert focused(tab) == ("demo-copy" if allowed else "demo-text")
        text = tab.evaluate("window.copied") if allowed else tab.input_value("#demo-text")
        assert tab.evaluate("navigator.userAgent") in text
        assert "test image, T-shirt/top 1" in text
        for network in description["networks"]:
            line = next(
                line for line in text.splitlines() if line.startswith(network["name"] + " ")
            )
            assert f" {network['bytes']} " in line and f" {network['accuracy']:.2f} " in line


def test_page_with_answers_is_accessible_and_fits(loaded, theme, axe):
    with loaded(viewport=PHONE, theme=theme) as tab:
        tab.click("#demo-measure")
        tab.wait_for_selector("#demo-by-time:checked")
        assert tab.evaluate(STICKING_OUT) == {"width": PHONE["width"], "elements": []}
        tab.evaluate(axe)
        for viewport in (PHONE, DESKTOP):
            tab.set_viewport_size(viewport)
            found = [
                f"{violation['id']}: {node['html'][:120]}"
                for violation in tab.evaluate(AXE)["violations"]
                for node in violation["nodes"]
            ]
            assert found == [], viewport


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_moves_while_the_page_fills(loaded, viewport):
    with loaded(viewport=viewport, script=LATE) as tab:
        shifts = tab.evaluate(SHIFTS)
        assert sum(value for value, _ in shifts) <= 0.01, shifts
