import torch
from torch import nn

from benchmarks import memory, networks
from benchmarks.networks import Kit


def test_saved_bytes_are_those_of_activations():
    # Linear keeps its input, tanh its output, which the next Linear keeps too.
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    assert memory.saved_bytes(model, lambda: model(x)) == 4 * 10 * (8 + 16)


def test_the_batch_separates_activations_from_weights():
    model = networks.linear_block(Kit("normprop", "Tanh"), 16)

    def saved(rows):
        x = torch.randn(rows, 16, requires_grad=True)
        return memory.saved_bytes(model, lambda: model(x))

    activations, rest = memory.by_batch(saved(10), saved(20))
    plain = networks.linear_block(Kit("plain", "Tanh"), 16)
    x = torch.randn(10, 16, requires_grad=True)
    assert activations == memory.saved_bytes(plain, lambda: plain(x)) == 2 * 4 * 10 * 16
    # The gradient of the input needs the weight as it runs, which is no parameter.
    assert rest >= 4 * 16 * 16


def test_peak_is_what_lives_at_a_time():
    def call():
        a = torch.empty(1000, dtype=torch.float64)
        b = torch.empty(2000, dtype=torch.float64)
        del a
        c = torch.empty(500, dtype=torch.float64)
        return b, c

    assert memory.peak_bytes(call, torch.device("cpu")) == 8 * 3000


def test_what_was_there_before_and_goes_does_not_count():
    held = [torch.empty(1000, dtype=torch.float64)]

    def call():
        # The old one is gone when the new one comes, and 500 more come and go with it.
        held.clear()
        held.append(torch.empty(1000, dtype=torch.float64))
        torch.empty(500, dtype=torch.float64)

    for _ in range(3):
        assert memory.peak_bytes(call, torch.device("cpu")) == 8 * 500
