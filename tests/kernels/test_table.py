"""Tables of whole numbers: one copy a stream, and in a graph under capture none that could move."""

import pytest
import torch

from normprop.kernels import table as module

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Stands for a GPU: the stream, whether it is captured, and what is copied."""

    class State:
        stream, capturing, copies = "first", False, []

    State.copies = []

    def pinned(count, dtype, device, pin_memory):
        assert device == "cpu"
        assert pin_memory
        assert not State.capturing
        return zeros(count, dtype=dtype)

    def copied(numbers, device):
        State.copies.append(numbers)
        return torch.tensor(numbers)

    zeros = torch.zeros
    # Torch without CUDA has none.
    raw = "_cuda_getCurrentRawStream"
    monkeypatch.setattr(torch._C, raw, lambda index: State.stream, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: State.capturing)
    monkeypatch.setattr(torch, "empty", pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: tensor.clone())
    monkeypatch.setattr(module, "copied", copied)
    monkeypatch.setattr(module, "_SPARE", [])
    monkeypatch.setattr(module, "_CAPTURED", {})
    return State


def test_a_stream_gets_a_copy_of_its_own_and_only_one(gpu):
    table = module.Numbers((3, 1, 4))
    for stream in ("first", "first", "second", "first"):
        gpu.stream = stream
        assert table.on(DEVICE).tolist() == [3, 1, 4]
    assert len(gpu.copies) == 2
    assert not module._CAPTURED


def test_a_capture_reads_a_copy_that_was_there_and_holds_it(gpu):
    table = module.Numbers((3, 1, 4))
    before = table.on(DEVICE)
    gpu.stream, gpu.capturing = "captured", True
    for _ in range(2):
        assert table.on(DEVICE) is before
    assert [held is before for held in module._CAPTURED.values()] == [True]
    assert len(gpu.copies) == 1


def test_a_capture_copies_from_memory_that_nobody_writes_again(gpu):
    first, second = module.Numbers((3, 1, 4)), module.Numbers((1, 5))
    gpu.capturing = True
    with pytest.raises(RuntimeError, match="must have been made outside of a capture"):
        first.on(DEVICE)
    gpu.capturing = False
    module.Numbers((2, 7)).on(DEVICE)
    gpu.capturing = True
    for _ in range(3):
        assert first.on(DEVICE).tolist() == [3, 1, 4]
        assert second.on(DEVICE).tolist() == [1, 5]
    # What the graph will read, as often as it is replayed: sources, and the copies made of them.
    held = [tensor.tolist() for tensor in module._CAPTURED.values()]
    assert held.count([3, 1, 4]) == held.count([1, 5]) == 6
    # None of it was given to an eager call.
    gpu.capturing = False
    first.on(DEVICE)
    assert gpu.copies == [(2, 7), (3, 1, 4)]


def test_memory_for_captures_grows_with_the_tables(gpu):
    many = tuple(range(module._LEAST + 1))
    module.Numbers(many).on(DEVICE)
    gpu.capturing = True
    assert module.Numbers(many[1:]).on(DEVICE).tolist() == list(many[1:])
