"""Recurrent layers have no constants, and why."""

from torch import nn

from normprop.rules.registry import refuse

_SHARED = (
    "its weights serve every step, so that the state depends on the weights it meets again, and "
    "its scale on the step"
)
_GATES = "; its gates multiply it by functions of itself"

for _type, _reason in {
    nn.RNN: _SHARED,
    nn.RNNCell: _SHARED,
    nn.LSTM: _SHARED + _GATES,
    nn.LSTMCell: _SHARED + _GATES,
    nn.GRU: _SHARED + _GATES,
    nn.GRUCell: _SHARED + _GATES,
    nn.RNNBase: "it is the base of recurrent layers and computes nothing by itself",
    nn.RNNCellBase: "it is the base of recurrent cells and computes nothing by itself",
}.items():
    refuse(_type, _reason, family="composite")
