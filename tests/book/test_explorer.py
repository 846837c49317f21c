"""The live figures: their numbers against the package's, and every control operated in a browser.

The scripts are served as they lie in the tree, in a page of a few lines; what the book's own pages
make of them is looked at at the end.
"""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import time

import numpy as np
import pytest
import torch

import normprop
import normprop.nn as nnp
from normprop.gaussian import Normal
from normprop.gaussian.maps import chi, scale_map
from normprop.gaussian.named import FUNCTIONS
from normprop.rules import function_of
from tests.book import browser
from tests.book.notebooks import ROOT

SCRIPTS = ROOT / "book" / "_static" / "explorer"
PLACES = ("landing", "lab", "again", "race")
PAGE = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">
<title>Live figures</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="explorer.css">
<style>
body { background: var(--pst-color-background, #fff); margin: 1rem; }
html[data-theme="dark"] {
  --pst-color-background: #14181e; --pst-color-text-base: #ced6dd;
  --pst-color-text-muted: #9ca4af; --pst-color-border: #48566b;
  --pst-color-surface: #29313d; --pst-color-primary: #5fa8ff;
}
</style></head><body class="bd-content">""" + "".join(
    f'<div class="np-live" data-live="{name}"><p>Here stands a figure.</p></div>' for name in PLACES
) + '<script src="parts.js"></script></body></html>'  # fmt: skip

# What 300 KB is to hold: all scripts and styles of all live figures.
BUDGET = 300_000
# Of max(|reference|, 1e-3), as everywhere in the project.
PRECISION = 1e-9
PATIENCE = 60


def agrees(value: float, reference: float, precision: float = PRECISION) -> bool:
    return abs(value - reference) <= precision * max(abs(reference), 1e-3)


class Page:
    """A browser with the live figures open."""

    def __init__(self, driver, address: str):
        self.driver, self.address = driver, address

    def open(self, fragment: str = "", view: str = "laptop-light", motion: bool = True) -> None:
        browser.set_view(self.driver, view)
        scheme = browser.VIEWS[view][2]
        features = {
            "prefers-color-scheme": scheme,
            "prefers-reduced-motion": "no-preference" if motion else "reduce",
        }
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": name, "value": text} for name, text in features.items()]},
        )
        # A change of the fragment alone would not load the page anew.
        self.driver.get("about:blank")
        self.driver.get(self.address + fragment)
        self.driver.execute_script("document.documentElement.dataset.theme = arguments[0]", scheme)
        self.until(lambda: len(self.all(".np-live svg.np-chart")) == 5, "all figures are there")
        self.until(self.rests, "a network has been simulated")

    def until(self, holds, what: str):
        """Wait until something holds; what it is goes into the failure."""
        end = time.monotonic() + PATIENCE
        while not (answer := holds()):
            assert time.monotonic() < end, f"waited in vain until {what}"
            time.sleep(0.02)
        return answer

    def run(self, body: str, *arguments):
        """The value that an asynchronous function body of JavaScript returns.

        Numbers come as they are, but for those that JSON does not know.
        """
        answer = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async (...args) => {{ {body} }})(...[...arguments].slice(0, -1))"
            ".then((value) => done(JSON.stringify(value ?? null, (_, x) => "
            "  typeof x === 'number' && !Number.isFinite(x) ? String(x) : x)),"
            " (error) => done(JSON.stringify({ error: String(error) })));",
            *arguments,
        )
        answer = json.loads(answer)
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(answer["error"])
        return answer

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str):
        (found,) = self.all(selector)
        return found

    def control(self, name: str):
        return self.one(f'[name="{name}"]')

    def button(self, text: str, place: str = ""):
        inside = f'[data-live="{place}"] button' if place else "button"
        (found,) = [each for each in self.all(inside) if each.text == text]
        return found

    def rests(self) -> bool:
        """Whether the stack's figure has its network, or says that there is none."""
        told = self.summary("lab", 1)
        return "network they are" in told or "is refused" in told

    def path(self, name: str, place: str = "lab") -> str:
        found = self.all(f'[data-live="{place}"] [data-name="{name}"]')
        return found[0].get_attribute("d") if found else ""

    def count(self, name: str, place: str = "lab") -> int:
        """How many points or bars a mark has."""
        return self.path(name, place).count("M")

    def press(self, element, *keys) -> None:
        """Type on an element that has come into focus by the keyboard's own means."""
        self.driver.execute_script("arguments[0].focus()", element)
        element.send_keys(*keys)
        self.settled()

    def settled(self) -> None:
        """Two pictures later, when what was asked for has been drawn."""
        self.run(
            "await new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
        )

    def summary(self, place: str, card: int = 0) -> str:
        return self.all(f'[data-live="{place}"] .np-summary')[card].text

    def complaints(self) -> list[str]:
        return [each.text for each in self.all(".np-complaint") if each.is_displayed()]

    def console(self) -> list[str]:
        log = self.driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    copy = tmp_path_factory.mktemp("explorer") / "explorer"
    shutil.copytree(SCRIPTS, copy)
    (copy / "page.html").write_text(PAGE, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip("no Chromium with its chromedriver is installed")
    with browser.chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def opened(folder, driver):
    """The page, opened once; tests that need it as it opens call `open`."""
    with browser.served(folder) as address:
        page = Page(driver, f"{address}/page.html")
        page.open()
        assert page.console() == []
        yield page


@pytest.fixture
def page(opened):
    """The page, and after the test a look at what the browser had to say."""
    yield opened
    assert opened.console() == []


# Numbers


def test_it_is_small_enough():
    sizes = {path.name: path.stat().st_size for path in SCRIPTS.iterdir()}
    assert sum(sizes.values()) < BUDGET, sizes


def test_it_knows_every_named_function(page):
    names = page.run('return Object.keys(await normprop.use("activations"))')
    assert sorted(names) == sorted(FUNCTIONS)
    shown = [each.get_attribute("value") for each in page.all('select[name="f"] option')]
    assert sorted(shown) == sorted(FUNCTIONS)


# Far out, near 0, at all kinks, and on both sides of them.
KINKS = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 20.0)
POINTS = [
    *np.linspace(-9.0, 9.0, 181).tolist(),
    *KINKS,
    *(k + side for k in KINKS for side in (-1e-7, 1e-7)),
    *(side * size for side in (-1, 1) for size in (1e-9, 1e-3, 0.09, 0.11, 25.0, 40.0, 700.0, 1e4)),
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_slopes_are_those_of_torch(page, name):
    values, slopes = page.run(
        """const f = (await normprop.use("activations"))[args[0]];
        return [args[1].map(f.value), args[1].map(f.slope)];""",
        name,
        POINTS,
    )
    x = torch.tensor(POINTS, dtype=torch.float64, requires_grad=True)
    y = getattr(torch.nn.functional, name)(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    # torch's float64 gradient of the hard sigmoid uses a float32 sixth.
    loose = 1e-7 if name == "hardsigmoid" else 1e-12
    wrong = [
        (point, *rest)
        for point, *rest in zip(POINTS, values, y.tolist(), slopes, slope.tolist(), strict=True)
        if not (agrees(rest[0], rest[1], 1e-12) and agrees(rest[2], rest[3], loose))
    ]
    assert wrong == []


LAWS = [(m, s) for m in (-3.0, -0.7, 0.0, 0.1, 3.0) for s in (0.05, 0.3, 1.0, 1.5, 3.0, 12.0)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_figures_are_those_of_the_package(page, name):
    found = page.run(
        """const f = (await normprop.use("activations"))[args[0]];
        const { figures } = await normprop.use("quadrature");
        return args[1].map(([mean, std]) => figures(f, mean, std));""",
        name,
        LAWS,
    )
    wrong = []
    for (mean, std), here in zip(LAWS, found, strict=True):
        at = normprop.moments(name, mean, std)
        pairs = [
            (here["mean"], at.fwd_mean),
            (here["forward"], at.fwd_std),
            (here["backward"], at.bwd_std),
        ]
        if here["chi"] == "NaN":
            # Nothing varies there that double precision could tell from nothing.
            assert at.fwd_std <= 1e-12 * max(abs(at.fwd_mean), 1e-3)
        else:
            pairs.append((float(here["chi"]), chi(function_of(name), Normal(mean, std)).value))
        wrong += [(mean, std, *pair) for pair in pairs if not agrees(*pair)]
    assert wrong == []


SETTINGS = [
    ("relu", 0.0, math.sqrt(2), "plain", "normal"),
    ("relu", 0.0, 1.0, "backward", "normal"),
    ("relu", 0.4, 0.7, "forward", "centred"),
    ("tanh", 0.0, 1.0, "separate", "orthogonal"),
    ("gelu", -0.3, 1.2, "forward", "normal"),
    ("sigmoid", 0.5, 2.0, "plain", "orthogonal"),
    ("hardshrink", 0.0, 1.0, "backward", "centred"),
]


@pytest.mark.parametrize(("name", "mean", "std", "scaling", "weights"), SETTINGS)
def test_the_prediction_is_the_scale_map_iterated(page, name, mean, std, scaling, weights):
    depth = 12
    said = page.run(
        """const [name, mean, std, scaling, weights, depth] = args;
        const f = (await normprop.use("activations"))[name];
        return (await normprop.use("maps")).predict({ f, mean, std, scaling, weights, depth });""",
        *(name, mean, std, scaling, weights, depth),
    )
    at = normprop.moments(name, mean, std)
    shift = 0.0 if scaling == "plain" else at.fwd_mean
    slope = std * at.bwd_std
    ahead = {"plain": 1.0, "backward": slope}.get(scaling, at.fwd_std)
    back = {"plain": 1.0, "forward": at.fwd_std}.get(scaling, slope)
    q, signal, growth = 1.0, [1.0], []
    for _ in range(depth):
        here = normprop.moments(name, mean, std * math.sqrt(q))
        growth.append(std * here.bwd_std / back)
        # Centred weights do not see what all units have in common.
        center = here.fwd_mean if weights == "centred" else shift
        q = scale_map(function_of(name), Normal(mean, std), center, ahead, q).value
        signal.append(math.sqrt(q))
    gradient = [math.prod(growth[layer:]) for layer in range(depth + 1)]
    for mine, theirs in ((said["signal"], signal), (said["gradient"], gradient)):
        assert all(agrees(a, b) for a, b in zip(mine, theirs, strict=True)), (mine, theirs)


def where(found, vary):
    # The page chooses a mean at which the signal stays.
    return {"at": found["mean"]} if vary == "std" else {}


@pytest.mark.parametrize(
    ("name", "vary"), [("relu", "mean"), ("tanh", "std"), ("gelu", "std"), ("elu", "std")]
)
def test_calibration_is_that_of_the_package(page, name, vary):
    for depth in (30, 1000):
        found = page.run(
            """const f = (await normprop.use("activations"))[args[0]];
            return (await normprop.use("maps")).calibrated(f, args[1]);""",
            *(name, depth),
        )
        at = nnp.Calibrated(name, depth=depth, vary=vary, **where(found, vary)).calibration
        assert at.stable
        # χ is flat where it is near 1: its rounding moves the law by much more than its own size.
        assert agrees(found["mean"], at.mean, 1e-8)
        assert agrees(found["std"], at.std, 1e-8)
    # At one layer the package refuses or bends the function; the page leaves it where it is.
    shallow = page.run(
        """const f = (await normprop.use("activations"))[args[0]];
        return (await normprop.use("maps")).calibrated(f, 1);""",
        name,
    )
    assert shallow == {"mean": 0, "std": 1}


def test_random_numbers_are_normal(page):
    n = 400_000
    sums = page.run(
        """const draw = (await normprop.use("random")).normal(1, 2);
        const sums = [0, 0, 0, 0, 0];
        let before = draw();
        for (let k = 0; k < args[0]; k++) {
          const x = draw();
          [1, 2, 3, 4].forEach((power) => { sums[power - 1] += x ** power; });
          sums[4] += x * before;
          before = x;
        }
        return sums;""",
        n,
    )
    # E x^p and the variance of x^p; the last is the product with the number before.
    for total, mean, variance in zip(sums, (0, 1, 0, 3, 0), (1, 2, 15, 96, 1), strict=True):
        assert abs(total / n - mean) < 5 * math.sqrt(variance / n)


@pytest.mark.parametrize("kind", ["normal", "orthogonal", "centred"])
def test_weights_keep_the_mean_square_and_go_back_as_their_transpose(page, kind):
    width = 24
    forward, back = page.run(
        """const [kind, width] = args;
        const { normal } = await normprop.use("random");
        const size = { length: width * width };
        const unit = () => Float64Array.from(size, (_, k) => +!(k % (width + 1)));
        const matrix = (await normprop.use("weights"))[kind](width, normal(3));
        const [forward, back] = [unit(), unit()];
        matrix.apply(forward);
        matrix.back(back);
        return [[...forward], [...back]];""",
        *(kind, width),
    )
    forward, back = (np.reshape(each, (width, width)) for each in (forward, back))
    # Rows are what becomes of the unit vectors.
    assert np.allclose(forward, back.T, atol=1e-13)
    assert math.isclose((forward**2).sum(), width, rel_tol=1e-12)
    weight = forward.T
    if kind == "orthogonal":
        assert np.allclose(weight @ weight.T, np.eye(width), atol=1e-13)
    if kind == "centred":
        assert np.allclose(weight.sum(1), 0, atol=1e-13)


def test_a_random_network_does_what_the_maps_predict(page):
    # ReLU with √2 has linear maps, whose means a finite width does not move.
    runs = page.run(
        """const { simulate } = await normprop.use("network");
        const { relu } = await normprop.use("activations");
        const more = { mean: 0, std: Math.SQRT2, scaling: "plain", weights: "normal" };
        return Array.from({ length: 150 }, (_, seed) => {
          const found = [...simulate({ f: relu, ...more, width: 48, depth: 6, seed })];
          const end = (way, layer) => found.find((r) => r.way === way && r.layer === layer).std;
          return [end("signal", 6), end("gradient", 0), found.length];
        });"""
    )
    for column in (0, 1):
        squares = np.array([run[column] for run in runs]) ** 2
        assert abs(squares.mean() - 1.0) < 4 * squares.std() / math.sqrt(len(runs))
    assert {run[2] for run in runs} == {14}


@pytest.mark.parametrize("name", ["relu", "tanh"])
@pytest.mark.parametrize(
    "scheme", ["pytorch", "he", "forward", "backward", "separate", "calibrated"]
)
def test_the_gradient_in_training_is_the_derivative(page, scheme, name):
    pairs, ratio = page.run(
        """const [scheme, name] = args;
        const f = (await normprop.use("activations"))[name];
        const { Network, crossEntropy } = await normprop.use("training");
        const { normal } = await normprop.use("random");
        const [rows, depth, h] = [5, 4, 1e-5];
        const network = new Network({ f, scheme, width: 7, depth, seed: 2 });
        const x = Float64Array.from({ length: rows * 64 }, normal(9));
        const labels = [3, 1, 4, 1, 5];
        const loss = () => crossEntropy(network.forward(x, rows), labels);
        const logits = network.forward(x, rows);
        crossEntropy(logits, labels);
        network.backward(logits, rows);
        const pairs = [];
        [...network.layers, network.head].forEach((layer, at) => {
          const gradient = layer.gradient;
          for (const [array, shift] of [[layer.weight, 0], [layer.bias, layer.weight.length]]) {
            for (const k of [0, 3, 6]) {
              const kept = array[k];
              array[k] = kept + h;
              const up = loss();
              array[k] = kept - h;
              const down = loss();
              array[k] = kept;
              pairs.push([at, gradient[k + shift], (up - down) / (2 * h)]);
            }
          }
        });
        return [pairs, network.law.ahead / network.law.back];""",
        *(scheme, name),
    )
    assert len(pairs) == 30
    assert (abs(ratio - 1) > 0.01) == (scheme == "separate")
    for layer, analytic, numeric in pairs:
        # With separate scales each later layer multiplies what comes back by σ_f/σ_b.
        expected = numeric * ratio ** (4 - layer)
        assert abs(analytic - expected) <= 1e-6 * abs(expected) + 1e-9, (layer, analytic, expected)


def test_the_digits_are_those_of_scikit_learn(page, root):
    packed = runpy.run_path(str(root / "scripts" / "pack_digits.py"))
    assert (SCRIPTS / "digits.js").read_text(encoding="utf-8") == packed["script"]()
    pixels, labels = page.run(
        """const { pixels, labels } = await normprop.use("digits");
        return [[...pixels], [...labels]];"""
    )
    from sklearn.datasets import load_digits

    data = load_digits()
    assert pixels == data.images.ravel().astype(int).tolist()
    assert labels == data.target.tolist()


# Controls


def keys():
    from selenium.webdriver.common.keys import Keys

    return Keys


# Each slider, and the marks that must move with it.
SLIDERS = [
    ("mean", "lab", ["bell", "spread", "signal"]),
    ("std", "lab", ["bell", "spread", "signal"]),
    ("width", "lab", ["signal-network", "gradient-network"]),
    ("depth", "lab", ["signal", "gradient", "signal-network", "gradient-network"]),
    ("size", "landing", ["plain", "plain-network"]),
    ("deep", "landing", ["plain", "normalised", "plain-network", "normalised-network"]),
]


@pytest.mark.parametrize(("name", "place", "marks"), SLIDERS)
def test_a_slider_moves_by_the_keyboard_and_the_figure_with_it(page, name, place, marks):
    # Not ReLU, to whose normalised form the std is nothing.
    page.open("#f=tanh")
    slider = page.control(name)
    page.until(lambda: all(page.path(mark, place) for mark in marks), "all marks are there")
    before = {mark: page.path(mark, place) for mark in marks}
    said, value = slider.get_attribute("aria-valuetext"), float(slider.get_attribute("value"))
    page.press(slider, keys().ARROW_RIGHT)
    step = float(slider.get_attribute("value")) - value
    assert math.isclose(step, float(slider.get_attribute("step")), rel_tol=1e-6)
    assert slider.get_attribute("aria-valuetext") != said
    for mark in marks:
        page.until(lambda mark=mark: page.path(mark, place) != before[mark], f"{mark} has moved")
    for key, end in ((keys().HOME, "min"), (keys().END, "max")):
        page.press(slider, key)
        assert slider.get_attribute("value") == slider.get_attribute(end)
        page.until(page.rests, "the figure has followed")


def test_each_layer_has_its_points(page):
    page.open("#depth=9&deep=12&size=1.5")
    for mark, place, layers in (
        ("signal-network", "lab", 9),
        ("gradient-network", "lab", 9),
        ("plain-network", "landing", 12),
        ("normalised-network", "landing", 12),
    ):
        page.until(lambda m=mark, p=place, n=layers: page.count(m, p) == n + 1, mark)
        line = page.path(mark.removesuffix("-network"), place)
        assert line.count("L") == layers


def test_each_setting_of_each_list_can_be_chosen(page):
    page.open()
    for name in ("f", "scaling", "weights"):
        options = [each.get_attribute("value") for each in page.all(f'[name="{name}"] option')]
        page.press(page.control(name), keys().HOME)
        for option in options:
            assert page.control(name).get_attribute("value") == option
            page.until(page.rests, f"a network has run with {name} = {option}")
            assert "NaN" not in page.path("value") + page.path("signal") + page.path("bell")
            page.press(page.control(name), keys().ARROW_DOWN)
        page.press(page.control(name), keys().HOME)


def test_the_page_says_the_numbers_of_the_package(page):
    page.open("#f=sigmoid&mean=0.5&std=1.5")
    at = normprop.moments("sigmoid", 0.5, 1.5)
    for key, exact in (
        ("mean", at.fwd_mean),
        ("forward", at.fwd_std),
        ("backward", at.bwd_std),
        ("chi", (1.5 * at.bwd_std / at.fwd_std) ** 2),
    ):
        cell = page.one(f'[data-live="lab"] [data-figure="{key}"]')
        assert agrees(float(cell.get_attribute("data-value")), exact)
        assert abs(float(cell.text) - exact) < 1e-7


def test_a_flat_place_is_called_flat(page):
    page.open("#f=relu6&mean=-3&std=0.05")
    assert page.one('[data-live="lab"] [data-figure="chi"]').text == "none: flat here"
    assert "no gradient passes" in page.summary("lab")
    assert "ReLU6 is flat" in page.summary("lab", 1)
    # And it finds its way back.
    page.press(page.control("mean"), keys().END)
    page.until(lambda: page.count("signal-network") == 41, "a network has run")


def test_presets_set_what_they_promise(page):
    page.open()
    buttons = page.all('[data-live="lab"] .np-buttons button')
    looks = set()
    for button in buttons:
        page.press(button, keys().ENTER)
        page.until(page.rests, "the network has run")
        looks.add(page.one(".np-look").text)
        assert page.complaints() == []
    assert len(looks) == len(buttons) == 7

    page.press(page.button("PyTorch's own weights"), keys().ENTER)
    assert "vanishes" in page.summary("lab", 1)
    page.press(page.button("He's weights"), keys().ENTER)
    assert page.summary("lab", 1).count("keeps its size: its std is 1.00") == 1
    page.press(page.button("tanh, forward σ"), keys().ENTER)
    assert "the gradient explodes" in page.summary("lab", 1)


def test_the_preset_that_runs_away_does(page):
    page.open()
    page.press(page.button("GELU runs away"), keys().ENTER)
    told = page.until(
        lambda: re.search(r"In the network they are (\S+) and", page.summary("lab", 1)),
        "the network has run",
    )
    assert "·10" in told[1]


def test_another_network_moves_the_points_alone(page):
    page.open()
    lines, points = page.path("signal"), page.path("signal-network")
    page.press(page.button("Draw another network"), keys().SPACE)
    page.until(lambda: page.path("signal-network") != points, "the points have moved")
    assert page.path("signal") == lines


def test_the_numbers_are_there_as_a_table(page):
    page.open("#depth=7")
    summary = page.one(".np-table summary")
    page.press(summary, keys().ENTER)
    page.until(page.rests, "the network has run")
    rows = [row.text.split() for row in page.all(".np-table tbody tr")]
    assert [row[0] for row in rows] == [str(layer) for layer in range(8)]
    assert {len(row) for row in rows} == {5}
    # ReLU's signal under backward σ, at its fixed point's door.
    said = normprop.moments("relu").fwd_std / normprop.moments("relu").bwd_std
    assert abs(float(rows[1][1]) - said) < 1e-3


def test_an_address_keeps_a_setting(page):
    page.open()
    page.press(page.control("depth"), keys().END)
    page.press(page.control("f"), "t")
    chosen = page.control("f").get_attribute("value")
    page.until(lambda: f"f={chosen}" in page.driver.current_url, "the address has been written")
    fragment = page.driver.current_url.partition("#")[2]
    assert dict(part.split("=") for part in fragment.split("&")) == {"f": chosen, "depth": "100"}

    page.open(f"#{fragment}")
    assert page.control("f").get_attribute("value") == chosen
    assert page.control("depth").get_attribute("value") == "100"
    # And in a page that is open.
    page.driver.execute_script('location.hash = "depth=5&layers=3"')
    page.until(lambda: page.control("depth").get_attribute("value") == "5", "the address was read")
    assert page.control("layers").get_attribute("value") == "3"
    assert page.control("f").get_attribute("value") == "relu"


def test_an_anchor_is_no_setting(page):
    page.open("#depth=5")
    page.driver.execute_script('location.hash = "a-section"')
    page.settled()
    assert page.control("depth").get_attribute("value") == "5"


@pytest.mark.parametrize(
    ("fragment", "complaint"),
    [
        ("std=99", "std must lie between 0.05 and 3; it was 99. Shown is 1."),
        ("std=", "std must lie between 0.05 and 3; it was . Shown is 1."),
        ("depth=2.5", "depth must lie between 1 and 100; it was 2.5. Shown is 40."),
        ("mean=NaN", "mean must lie between -3 and 3; it was NaN. Shown is 0."),
        ("width=63", "width must be one of 8, 16, 32, 64, 128, 256; it was 63. Shown is 64."),
        ("weights=heavy", "weights must be one of normal, orthogonal, centred; it was heavy."),
        ("f=toString", "it was toString. Shown is relu."),
    ],
)
def test_a_wrong_address_is_named(page, fragment, complaint):
    page.open(f"#{fragment}")
    (said,) = page.complaints()
    assert complaint in said


# The experiment


def figure(page, key: str) -> str:
    return page.one(f'[data-live="again"] [data-figure="{key}"]').text


def test_the_experiment_stands_around_the_exact_value(page):
    page.open()
    exact = normprop.moments("sigmoid").bwd_std
    # Its own error formula, against the fourth moment computed here by a sum at equal steps.
    x = np.linspace(-12, 12, 4801)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    slope = FUNCTIONS["sigmoid"].slope(x)
    error = math.sqrt((3 * (density @ slope**4) - exact**4) / 100_000) / (2 * exact)
    theirs = page.run(
        """const { exact, error, POST, SAMPLES } = await normprop.use("experiment");
        return [exact, error, POST, SAMPLES];"""
    )
    assert agrees(theirs[0], exact)
    assert agrees(theirs[1], error, 1e-6)
    assert theirs[2:] == [0.2123, 100_000]
    assert f"{(0.2123 - exact) / error:.2f} standard errors" in page.summary("again")

    page.press(page.button("Draw 100 000 samples"), keys().ENTER)
    page.until(lambda: figure(page, "runs") == "1", "one run has ended")
    assert page.count("runs", "again") == 1
    assert abs(float(figure(page, "last")) - exact) < 5 * error

    page.press(page.button("Draw them 1000 times"), keys().ENTER)
    page.until(lambda: int(figure(page, "runs")) > 60, "many runs have ended")
    page.press(page.button("Stop", "again"), keys().ENTER)
    runs = int(figure(page, "runs"))
    mean = page.one('[data-live="again"] [data-figure="mean"]').get_attribute("data-value")
    assert abs(float(mean) - exact) < 5 * error / math.sqrt(runs)
    assert page.count("runs", "again") > 5
    assert page.count("exact", "again") == page.count("post", "again") == 1
    time.sleep(0.2)
    assert int(figure(page, "runs")) == runs

    page.press(page.button("Clear"), keys().ENTER)
    assert figure(page, "runs") == "–"
    assert page.count("runs", "again") == 0


# The race


def facts(page, side: str) -> str:
    return page.one(f'[data-side="{side}"] .np-facts').text


def test_one_dies_and_one_lives(page):
    page.open("#layers=20")
    page.press(page.button("Train both"), keys().ENTER)
    page.until(lambda: page.path("right", "race").count("L") > 3, "a curve grows")
    page.until(lambda: "It has died" in facts(page, "left"), "the first has ended")
    page.until(lambda: "It lives" in facts(page, "right"), "the second has ended")
    assert "Loss 2.30" in facts(page, "left")
    (right,) = re.findall(r"(\d+) % of new digits", facts(page, "right"))
    assert int(right) >= 90
    for side in ("left", "right"):
        assert page.path(side, "race").count("L") == 199
        assert len(page.all(f'[data-side="{side}"] .np-guesses span')) == 10
    assert "·10⁻" in facts(page, "left")
    assert "has died" in page.summary("race")
    assert "lives" in page.summary("race")
    ink = page.run(
        """const canvas = document.querySelector(".np-digits");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return new Set(data).size;"""
    )
    # Greys of 17 kinds, of which ten digits show most.
    assert ink > 10


def test_each_setting_of_the_race_can_be_chosen(page):
    page.open("#layers=1")
    for name in ("learner", "left", "right"):
        options = page.all(f'[name="{name}"] option')
        page.press(page.control(name), keys().HOME)
        for option in options:
            assert page.control(name).get_attribute("value") == option.get_attribute("value")
            page.press(page.control(name), keys().ARROW_DOWN)
    for name in ("layers", "rate"):
        said = page.control(name).get_attribute("aria-valuetext")
        page.press(page.control(name), keys().ARROW_RIGHT)
        assert page.control(name).get_attribute("aria-valuetext") != said
    page.press(page.button("Train both"), keys().ENTER)
    page.until(lambda: "Loss" in facts(page, "left") + facts(page, "right"), "it trains")
    page.press(page.button("Stop", "race"), keys().ENTER)
    assert not page.button("Stop", "race").is_enabled()
    # Another setting clears the race.
    page.press(page.control("layers"), keys().ARROW_RIGHT)
    assert facts(page, "left") == "It waits."
    assert page.path("left", "race") == ""


# How it meets a reader


def test_nothing_but_its_own_files_is_asked_for(page):
    page.driver.get_log("performance")
    page.open()
    messages = (json.loads(e["message"])["message"] for e in page.driver.get_log("performance"))
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    here = page.address.rpartition("/")[0]
    own = {"blob", "data", "about"}
    assert [u for u in asked if not u.startswith(here) and u.partition(":")[0] not in own] == []
    names = {url.rpartition("/")[2] for url in asked if url.startswith(here)}
    assert names <= {path.name for path in SCRIPTS.iterdir()} | {"page.html"}


def test_each_control_has_a_name_a_hint_and_a_visible_focus(page):
    page.open()
    found = page.run(
        """return [...document.querySelectorAll("input, select")].map((element) => ({
          name: element.name,
          label: element.labels.length && element.labels[0].textContent,
          hint: document.getElementById(element.getAttribute("aria-describedby")).textContent,
        }));"""
    )
    assert len(found) == 14
    assert [each for each in found if not (each["label"] and each["hint"])] == []
    # Through all of them by the tabulator, in the order of the page.
    page.driver.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = []
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(keys().TAB)
        element = page.driver.switch_to.active_element
        if element.tag_name == "body":
            break
        seen.append(element.get_attribute("name") or element.text)
        style = page.driver.execute_script(
            """const { outlineStyle, outlineWidth } = getComputedStyle(arguments[0]);
            return [outlineStyle, parseFloat(outlineWidth)];""",
            element,
        )
        assert style[0] != "none", seen[-1]
        assert style[1] >= 2, seen[-1]
    assert {each["name"] for each in found} <= set(seen)
    assert {"He's weights", "Draw another network", "Draw 100 000 samples", "Train both"} <= set(
        seen
    )


def test_figures_say_what_they_show(page):
    page.open()
    for chart in page.all("svg.np-chart"):
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label").split()) > 8
    before = page.all("svg.np-chart")[1].get_attribute("aria-label")
    spoken = page.all('[data-live="lab"] [role="status"].np-spoken')[0]
    page.press(page.control("mean"), keys().END)
    now = page.all("svg.np-chart")[1].get_attribute("aria-label")
    assert now != before
    page.until(lambda: spoken.get_attribute("textContent") == now, "it has been read aloud")


def contrast(page, selector: str, colour: str) -> float:
    """Contrast of a colour of an element with the page, as WCAG counts it."""
    mine, behind = page.run(
        """const paint = (text) => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
        return [paint(getComputedStyle(document.querySelector(args[0]))[args[1]]),
          paint(getComputedStyle(document.body).backgroundColor)];""",
        *(selector, colour),
    )

    def luminance(rgb):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
                  for c in (v / 255 for v in rgb)]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(mine), luminance(behind)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("view", browser.VIEWS)
def test_it_is_legible_light_and_dark_wide_and_narrow(page, view):
    page.open(view=view)
    for role in ("forward", "backward", "exact", "plain"):
        mark = f'.np-line[data-role="{role}"]'
        assert contrast(page, mark, "stroke") >= 3, role
    for selector in (".np-hint", ".np-summary", ".np-control label", ".np-live button"):
        assert contrast(page, selector, "color") >= 4.5, selector
    assert contrast(page, ".np-grid text", "fill") >= 4.5
    sizes = page.run(
        """const width = document.documentElement.clientWidth;
        const wide = [...document.querySelectorAll(".np-live *")].filter(
          (element) => element.getBoundingClientRect().right > width + 1);
        const type = [...document.querySelectorAll(".np-grid text")].map(
          (text) => text.getBoundingClientRect().height);
        return [document.documentElement.scrollWidth - width, wide.length, Math.min(...type)];"""
    )
    assert sizes[:2] == [0, 0]
    # A line of type, 12 pixels high without its leading.
    assert sizes[2] >= 12


def test_a_change_of_theme_is_followed_at_once(page):
    page.open()
    colour = "return getComputedStyle(document.querySelector('.np-line[data-role=exact]')).stroke"
    light = page.driver.execute_script(colour)
    page.driver.execute_script("document.documentElement.dataset.theme = 'dark'")
    assert page.driver.execute_script(colour) != light


WATCH = """window.seen = 0;
const path = document.querySelector(arguments[0]);
new MutationObserver((changes) => {
  seen += changes.filter(() => path.getAttribute("d")).length;
}).observe(path, { attributeFilter: ["d"] });"""


@pytest.mark.parametrize("motion", [True, False])
def test_less_motion_is_less_motion(page, motion):
    page.open("#layers=2", motion=motion)
    page.driver.execute_script(WATCH, '[data-live="race"] [data-name="right"]')
    page.press(page.button("Train both"), keys().ENTER)
    page.until(lambda: "It lives" in facts(page, "right"), "the second has ended")
    page.until(lambda: not page.button("Stop", "race").is_enabled(), "both have ended")
    seen = page.driver.execute_script("return seen")
    # Each network may end for itself, and redraws the figure then.
    assert (seen <= 2) == (not motion)


def test_it_works_from_a_folder_of_files(folder, driver):
    page = Page(driver, (folder / "page.html").as_uri())
    page.open("#depth=9")
    assert page.console() == []
    page.until(lambda: page.count("gradient-network") == 10, "a worker has answered")
    page.press(page.button("Draw 100 000 samples"), keys().ENTER)
    page.until(lambda: figure(page, "runs") == "1", "one run has ended")
    page.press(page.control("depth"), keys().END)
    page.until(lambda: "depth=100" in driver.current_url, "the address has been written")
    assert page.console() == []


def test_a_script_that_is_missing_is_named_and_the_text_stays(folder, driver, tmp_path):
    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    (copy / "maps.js").unlink()
    with browser.served(copy) as address:
        driver.get(f"{address}/page.html")
        page = Page(driver, "")
        page.until(
            lambda: any("maps.js must lie beside parts.js" in line for line in page.console()),
            "the console names the script",
        )
        assert "Here stands a figure." in page.one('[data-live="lab"]').text


# The pages of the book


@pytest.mark.slow
@pytest.mark.parametrize("view", browser.VIEWS)
@pytest.mark.parametrize(
    ("name", "places"), [("book/index", ["landing"]), ("book/explorer", ["lab", "again", "race"])]
)
def test_the_pages_of_the_book_are_alive(book_html, driver, name, places, view):
    with browser.served(book_html) as address:
        sight = browser.look(driver, f"{address}/{name}.html", view)
        page = Page(driver, "")
        for place in places:
            page.until(lambda place=place: page.all(f'[data-live="{place}"] svg'), f"{place} lives")
        mark, place = ("plain-network", "landing") if "index" in name else ("signal", "lab")
        page.until(lambda: page.path(mark, place), "there is something to see")
        slider = page.all('input[type="range"]')[0]
        before = page.path(mark, place)
        page.press(slider, keys().PAGE_UP)
        page.until(lambda: page.path(mark, place) != before, "the slider moves it")
        overflow = "return document.documentElement.scrollWidth - innerWidth"
        assert driver.execute_script(overflow) <= 0
        assert page.console() == sight.console == []
        assert sight.outside == []


def test_the_numbers_in_the_text_are_right(root):
    text = (root / "book" / "explorer.md").read_text(encoding="utf-8")
    relu, sigmoid = normprop.moments("relu"), normprop.moments("sigmoid").bwd_std
    growth = (relu.bwd_std / relu.fwd_std) ** 2
    error = 0.00052
    off = (0.2123 - sigmoid) / error
    for number in (
        f"{relu.bwd_std:.8f}",
        f"{relu.fwd_std:.8f}",
        f"{growth:.4f} a layer",
        f"{sigmoid:.5f}",
        f"{error}.",
        f"{off:.2f} of these standard errors",
        f"about {100 * math.erfc(off / math.sqrt(2)):.0f} runs in 100",
        f"{math.log(10):.4f}",
        f"{1797 - 360} images",
    ):
        assert number in " ".join(text.split()), number
