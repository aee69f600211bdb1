"""Reports in a real browser, headless Chromium, as wide as a desktop and as a phone: seen whole, readable, and alone.

DIST_FM_SCREENSHOTS names a directory that keeps the pictures. Needs Debian's chromium and chromium-driver.
"""

import os
import pathlib
import shutil

import numpy as np
import pytest
from conftest import SCRIPT
from test_commands import command
from test_report import PANELS

pytestmark = pytest.mark.slow

DESKTOP, PHONE = 1280, 390
# What lies on each other, sticks out, or is too small to read.
LOOK = """
const seen = box => box.width > 0 && box.height > 0;
const boxes = root => {
  const found = [];
  for (const element of root.querySelectorAll('*')) {
    const details = element.closest('details:not([open])');
    if (details && !element.closest('summary')) continue;
    const texts = [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!texts.length) continue;
    const range = document.createRange();
    range.setStartBefore(texts[0]);
    range.setEndAfter(texts[texts.length - 1]);
    const box = element.tagName === 'text' ? element.getBoundingClientRect() : range.getBoundingClientRect();
    if (seen(box)) found.push({element, box, text: element.textContent.trim().slice(0, 40)});
  }
  return found;
};
const cross = (a, b, slack) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > slack &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > slack;
const problems = [], panels = [...document.querySelectorAll('section[data-panel]')];
const rectangle = element => element.getBoundingClientRect();
panels.forEach((panel, i) => {
  const name = panel.dataset.panel, outer = rectangle(panel);
  if (!seen(outer)) problems.push(name + ' is not seen');
  panels.slice(i + 1).forEach(other => {
    if (cross(outer, rectangle(other), 1)) problems.push(name + ' lies on ' + other.dataset.panel);
  });
  const texts = boxes(panel);
  if (texts.length < 2) problems.push(name + ' has no text');
  texts.forEach((one, j) => {
    texts.slice(j + 1).forEach(other => {
      if (cross(one.box, other.box, 2)) problems.push(`${name}: "${one.text}" lies on "${other.text}"`);
    });
    const frame = one.element.tagName === 'text' ? rectangle(one.element.closest('svg')) : outer;
    const {left, right, bottom} = one.box;
    const sticksOut = left < frame.left - 1 || right > frame.right + 1 || bottom > frame.bottom + 1;
    if (sticksOut && !one.element.closest('.scroll')) problems.push(`${name}: "${one.text}" sticks out`);
    const turned = one.element.tagName === 'text' ? one.element.getScreenCTM() : {a: 1, b: 0};
    const scale = Math.hypot(turned.a, turned.b);
    const size = parseFloat(getComputedStyle(one.element).fontSize) * scale;
    if (size < 10.5) problems.push(`${name}: "${one.text}" is ${size.toFixed(1)} px`);
  });
});
const root = document.scrollingElement;
if (root.scrollWidth > arguments[0]) problems.push(`the page is ${root.scrollWidth} px wide, of ${arguments[0]}`);
return {problems, panels: panels.map(panel => panel.dataset.panel), scripts: document.scripts.length,
        fetched: performance.getEntriesByType('resource').map(entry => entry.name),
        height: root.scrollHeight, text: document.body.textContent};
"""


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'dist_fm[browser]'")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(hostile_run, tmp_path_factory):
    """By name: a run of 2 epochs, one of 200, and both beside each other."""
    work = tmp_path_factory.mktemp("reports")
    settings = ("--model=deepfm", "--embed_dim=4", "--epochs=200", "--lr=3e-3", "--batch_size=480", "--devices=1")
    schedule = ("--optimizer.schedule=cosine", "--optimizer.decay_steps=600", "--save_steps=600", "--run.log_steps=2")
    run = work / "a-run-of-two-hundred-epochs"
    flags = (*settings, *schedule, "--run.report=true", "--quiet", f"--output_dir={run}")
    command("train", f"--data={hostile_run}/data", *flags)
    both = work / "both.html"
    command("report", f"--run={hostile_run}/run", f"--run={run}", f"--output={both}", "--devices=1")
    return {"2-epochs": hostile_run / "run" / "report.html", "200-epochs": run / "report.html", "both": both}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    kept = os.environ.get("DIST_FM_SCREENSHOTS")
    folder = pathlib.Path(kept) if kept else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def as_wide_as(browser, width, height=900):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", ["2-epochs", "200-epochs", "both"])
def test_a_report_reads_well(browser, reports, pictures, name, width):
    from PIL import Image

    as_wide_as(browser, width)
    browser.get(reports[name].as_uri())
    found = browser.execute_script(LOOK, width)
    as_wide_as(browser, width, found["height"])
    picture = pictures / f"report-{name}-{width}.png"
    browser.save_screenshot(str(picture))
    with Image.open(picture) as image:
        assert image.size == (width, found["height"])
        pixels = np.asarray(image.convert("L"))
    assert (pixels < 128).mean() > 0.005  # there is ink
    assert found["problems"] == []
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script(LOOK, width)["problems"] == []
    assert set(found["panels"]) == PANELS | ({"comparison"} if name == "both" else set())
    assert found["scripts"] == 0 and found["fetched"] == [] and browser.get_log("browser") == []
    assert SCRIPT in found["text"]


def test_what_is_amiss_is_noticed(browser, reports, tmp_path):
    """The look itself can fail."""
    source = reports["2-epochs"].read_text(encoding="utf-8")
    amiss = "section h3 { position: absolute; top: 300px; } .legend { font-size: 7px; } dl { width: 2000px; }"
    (tmp_path / "amiss.html").write_text(source.replace("</style>", amiss + "</style>"), encoding="utf-8")
    as_wide_as(browser, PHONE)
    browser.get((tmp_path / "amiss.html").as_uri())
    problems = "\n".join(browser.execute_script(LOOK, PHONE)["problems"])
    for words in ("lies on", "is 7.0 px", "the page is"):
        assert words in problems
