"""Chapter 14: a network. What mean field says of any one, and what rounding leaves."""

import json
import math

from normprop.companion import results
from normprop.companion.verdicts import difference
from tests.book.expectations import Equals, Exact, PerRun, Within

NETWORKS = json.loads(results.path("networks.json").read_text("utf-8"))
ENDS = {
    when: {one["name"]: one[when]["measured"]["fwd_std"][1] for one in NETWORKS["networks"]}
    for when in ("before", "after")
}
OUTSIDE = {
    when: [name for name, std in ends.items() if std < 0.5 or std > 2.0]
    for when, ends in ENDS.items()
}

SMALL = {"samples": 4, "blocks": 1}
OWN = 3


def counted(first: int, each: int) -> PerRun:
    """Of three stages of ``blocks`` blocks, and what is there once."""
    return PerRun(own=Exact(first + 3 * each * OWN, 0), small=Exact(first + 3 * each, 0))


def around(value: float, why: str) -> PerRun:
    """One network of 16 to 64 channels, and one that is smaller."""
    own = Within(value / 1.5, 1.5 * value, why)
    return PerRun(own=own, small=Within(value / 4, 4 * value, f"{why}, three blocks, four images"))


SHARE = PerRun(
    own=Within(0.2, 0.8, "about a half: the pool takes what places do not share"),
    small=Within(0.1, 1.0, "of four images"),
)
DEVIATION = "one network beside the law of all; the page says how far"
ROUNDING = Within(0.0, 1e-4, "float32, over thirty layers")

EXPECTED = {
    # Input, stem and its activation, two shortcuts, pool, flatten, head; five a block.
    "tensors": counted(8, 5),
    # Stem, activation, two shortcuts, pool, head; two maps and an activation a block.
    "converted": counted(6, 3),
    # Nine weights of variance 2/(9·16) an input channel, of which there are 3, and a bias.
    "before_stem": around(math.sqrt(3 * 9 * 2 / (9 * 16)), "He's rule with the fan-out"),
    "before_stem_predicted": around(math.sqrt(3 * 9 * 2 / (9 * 16)), "He's rule with the fan-out"),
    "before_stem_share": Within(0.9, 1.0, "all but the bias, which is small"),
    # The mean of ReLU is on the trunk, and the pool leaves it.
    "before_last": Within(0.2, 12.0, "grows with the number of sums"),
    "before_last_predicted": Within(0.2, 12.0, "grows with the number of sums"),
    "before_last_share": PerRun(
        own=Within(0.01, 0.15, "the page says that images look alike"),
        small=Within(0.01, 0.6, "three blocks"),
    ),
    "before_logits": Within(0.1, 12.0, "of the size of what is in front of the head"),
    "before_logits_predicted": Within(0.1, 12.0, "of the size of what is in front of the head"),
    "before_logits_share": PerRun(
        own=Within(0.01, 0.15, "the page says that they hardly depend on the image"),
        small=Within(0.01, 0.6, "three blocks"),
    ),
    "before_largest": PerRun(
        own=Within(3.0, 12.0, "the page says that the signal grows"),
        small=Within(0.5, 12.0, "three blocks"),
    ),
    "before_worst": Within(1.0, 2.5, DEVIATION),
    "before_gradient": Within(0.05, 2.0, "falls or not, as its initialisation has it"),
    "before_loss": Within(1.0, 20.0, "above guessing by what the logits are too large"),
    "after_low": Within(0.8, 1.1, "1 by prediction, behind every activation"),
    "after_high": Within(0.95, 1.25, "1 by prediction, behind every activation"),
    "after_last": around(1.0, "1 by prediction; few images and channels are left to average"),
    "after_logits": around(1.0, "1 by prediction"),
    "after_last_share": SHARE,
    "after_logits_share": SHARE,
    "after_worst": PerRun(
        own=Within(1.0, 1.5, DEVIATION),
        small=Within(1.0, 4.0, "four images"),
    ),
    # The pool passes a half of the norm, the trunk gives back √e at the most.
    "after_gradient": Within(0.3, math.sqrt(math.e), "a half at the pool, and √e on the trunk"),
    "after_loss": Within(1.5, 5.0, "near guessing: logits of std 1 cost ½ in the mean"),
    "guessing": Exact(math.log(10), 1e-15),
    "fused_off": ROUNDING,
    "folded_off": ROUNDING,
    "own_left": Exact(0, 0),
    "first_wrong": PerRun(own=Equals(f"layers.{OWN}.conv2"), small=Equals("layers.1.conv2")),
    "wrong_std": Within(2.0, 100.0, "√(9·32) times the root of the mean square of what comes in"),
    "sound_std": Within(0.2, 5.0, "as before"),
    "fault_direction": Equals("backward"),
    "fault_path": Equals("layers.0.sqrt"),
}

EXPECTED |= {
    "networks": Equals(len(ENDS["before"])),
    "network_samples": Equals(NETWORKS["samples"]),
}
for _when, _names in OUTSIDE.items():
    EXPECTED |= {
        f"outside_{_when}": Equals(len(_names)),
        f"outside_{_when}_names": Equals(", ".join(_names) or "none"),
        f"smallest_{_when}": Exact(min(ENDS[_when].values()), 0.0),
    }


def _near(value):
    return abs(value - math.e) < 1e-6


DOCUMENTS = {
    path.name: json.loads(path.read_text("utf-8")) for path in results.FOLDER.glob("images_*.json")
}
# A leaky ReLU under He's weights is a method of its own.
TRAINED = {
    (
        (cell["kind"], cell["batch_size"], cell["steps"]),
        "leaky" if cell["activation"] == "leaky_relu" else cell["method"],
    ): cell
    for document in sorted(DOCUMENTS.values(), key=lambda one: one["date"])
    for cell in document["cells"]
    if "runs" in cell and len(cell["runs"]) >= 3 and _near(cell["growth"])
}
FEW = DOCUMENTS["images_few.json"]


def _off(where, one, other):
    return difference(
        *([run["test"] or 0.0 for run in TRAINED[where, name]["runs"]] for name in (one, other))
    )


EXPECTED |= {
    "train_data": Equals("Fashion-MNIST"),
    "train_device": Equals(FEW["device"]),
    "train_date": Equals(FEW["date"][:10]),
}
_claims = []
for _kind in ("vgg", "resnet"):
    for _batch, _steps in ((64, 250), (64, 1500), (4, 600), (2, 600)):
        _found = _off((_kind, _batch, _steps), "converted", "batchnorm")
        _claims += [_found.claim] if _steps < 1500 else []
        _name = f"{_kind}_{_batch}_{_steps}"
        EXPECTED |= {f"{_name}_gain": Equals(str(_found)), f"{_name}_claim": Equals(_found.claim)}
EXPECTED |= {f"claims_{c}": Equals(_claims.count(c)) for c in ("above", "level", "below")}

# What the page says of converted beside another method, asserted true.
SAID = {
    "vgg_leaky": (("vgg", 64, 250), "leaky"),
    "vgg_4_leaky": (("vgg", 4, 600), "leaky"),
    "vgg_2_leaky": (("vgg", 2, 600), "leaky"),
    "resnet_leaky": (("resnet", 64, 250), "leaky"),
    "resnet_4_leaky": (("resnet", 4, 600), "leaky"),
    **{f"{k}_long": ((k, 64, 1500), "batchnorm") for k in ("vgg", "resnet")},
    **{f"{k}_long_leaky": ((k, 64, 1500), "leaky") for k in ("vgg", "resnet")},
    "vgg_hand": (("vgg", 64, 250), "calibrated"),
    "resnet_hand": (("resnet", 64, 250), "calibrated"),
}
for _name, (_where, _other) in SAID.items():
    EXPECTED[_name] = Equals(str(_off(_where, "converted", _other)))
    EXPECTED[f"{_name}_holds"] = Equals(True)

_CUBED = {
    cell["kind"]: [run["test"] for run in cell["runs"]]
    for cell in DOCUMENTS["images_variants.json"]["cells"]
    if cell["method"] == "converted"
}
for _kind, _runs in _CUBED.items():
    _mine = [run["test"] for run in TRAINED[(_kind, 64, 250), "converted"]["runs"]]
    EXPECTED[f"{_kind}_growth"] = Equals(str(difference(_mine, _runs)))
    EXPECTED[f"{_kind}_growth_holds"] = Equals(True)

_lost = [run["diverged"] for run in TRAINED[("resnet", 2, 600), "leaky"]["runs"]]
EXPECTED["resnet_2_lost"] = Equals(sum(_lost))

for _kind in ("vgg", "resnet"):
    _mine, _other = (
        {t["lr"]: t["validation"] or 0.0 for t in TRAINED[(_kind, 64, 250), method]["trials"]}
        for method in ("converted", "batchnorm")
    )
    EXPECTED |= {
        f"{_kind}_rates": Equals(len(_mine)),
        f"{_kind}_rates_ahead": Equals(len([r for r in _mine if _mine[r] > _other[r]])),
        f"{_kind}_bears_mine": Exact(max(r for r in _mine if _mine[r] > 0.5), 0.0),
        f"{_kind}_bears_other": Exact(max(r for r in _other if _other[r] > 0.5), 0.0),
    }
    for _cell in DOCUMENTS["images_time.json"]["cells"]:
        _method, _fused = _cell["method"], _cell["fused"]
        if _cell["kind"] == _kind and (_fused or _method == "batchnorm"):
            _name = f"{_kind}_cost_{_method}_{_cell['batch_size']}"
            EXPECTED[_name] = Exact(_cell["ratio"][1], 0.0)
# The residual network bears a larger rate with BatchNorm, as the page says.
assert EXPECTED["resnet_bears_other"].reference > EXPECTED["resnet_bears_mine"].reference

EXPECTED |= {
    # Stem and head, two shortcuts, two maps a block.
    "maps": counted(4, 2),
    # On the chain of a trunk each map moves the output as much as any other; those in branches and
    # behind the pool count for less.
    "stored_maps": PerRun(
        own=Within(1.0, 22.0, "not more than there are maps"),
        small=Within(1.0, 10.0, "not more than there are maps"),
    ),
    "stored_norm": Within(1.0, math.sqrt(22), "the root of it"),
    # All rows of all maps have one norm.
    "stored_spread": Exact(1.0, 1e-4),
}
