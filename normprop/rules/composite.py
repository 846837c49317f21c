"""What has no constants of its own: layers of layers, recurrent layers, and those still lazy.

The first input turns a lazy layer into one of the plain class, with its figures.  What is still
lazy has no weights.
"""

from torch import nn

from normprop.gaussian import Law

# The plain classes first.
from normprop.rules import normalization, parametric  # noqa: F401
from normprop.rules.registry import Moments, entry_of_type, refuse, register

_LIST = "it holds layers and has no forward of its own; measure the layers"
_PARAMETERS = "it holds parameters and has no forward of its own"
_SHARED = (
    "its weights serve every step, so that the state depends on the weights it meets again, and "
    "its scale on the step"
)
_GATES = f"{_SHARED}; its gates multiply it by functions of itself"
_SUMS = (
    "its residual sums make the inputs of its later parts dependent on one another; its parts "
    "have constants one by one"
)

for _type, _reason in {
    nn.Module: "it is the base of all layers and computes nothing by itself",
    nn.Sequential: "behind its first layer an input is no longer normal; measure its layers one "
    "by one, an activation and what follows it by after=, or the whole by simulate",
    nn.ModuleList: _LIST,
    nn.ModuleDict: _LIST,
    nn.ParameterList: _PARAMETERS,
    nn.ParameterDict: _PARAMETERS,
    # Old code's name for a module, that torch still exports.
    nn.Container: "it is a deprecated name of Module and computes nothing by itself",
    nn.DataParallel: "it spreads a batch over devices and runs its module on each; measure its "
    "module",
    nn.RNN: _SHARED,
    nn.RNNCell: _SHARED,
    nn.LSTM: _GATES,
    nn.LSTMCell: _GATES,
    nn.GRU: _GATES,
    nn.GRUCell: _GATES,
    nn.RNNBase: "it is the base of recurrent layers and computes nothing by itself",
    nn.RNNCellBase: "it is the base of recurrent cells and computes nothing by itself",
    nn.Transformer: _SUMS,
    nn.TransformerDecoder: _SUMS,
    nn.TransformerDecoderLayer: _SUMS,
    nn.TransformerEncoder: _SUMS,
    nn.TransformerEncoderLayer: _SUMS,
}.items():
    refuse(_type, _reason, family="composite")


def _without_weights(layer: nn.Module, law: Law, *_) -> Moments:
    raise ValueError(
        "weight must have values; the lazy module has not seen an input yet, which makes "
        f"{layer.cls_to_become.__name__} of {type(layer).__name__}"
    )


for _name in dir(nn):
    _type = getattr(nn, _name)
    _plain = getattr(_type, "cls_to_become", None)
    if not (isinstance(_plain, type) and issubclass(_plain, nn.Module)):
        continue
    _entry = entry_of_type(_plain)
    register(
        _type,
        _without_weights,
        grade=_entry.grade,
        note="; ".join(
            filter(None, ("once its first input has made a plain layer of it", _entry.note))
        ),
        shaped=_entry.shaped,
        family=_entry.family,
    )
