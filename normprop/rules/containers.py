"""What holds layers or parameters, and computes nothing of its own."""

from torch import nn

from normprop.rules.registry import refuse

_LIST = "it holds layers and has no forward of its own; measure the layers"
_PARAMETERS = "it holds parameters and has no forward of its own"

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
}.items():
    refuse(_type, _reason, family="composite")
