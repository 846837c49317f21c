"""The data sets: right files are read, and every kind of wrong one is refused by name."""

import gzip
import struct

import numpy as np
import pytest
import torch

from normprop.companion import data

SIDE, TRAIN, TEST = 5, 60, 20


def idx(array: np.ndarray, magic: int) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A right folder of four files with 10 classes."""
    generator = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("test", TEST)):
        images, labels = data.FILES[part]
        pictures = generator.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
        (tmp_path / images).write_bytes(idx(pictures, 2051))
        targets = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / labels).write_bytes(idx(targets, 2049))
    return tmp_path


def rows(part) -> set[bytes]:
    return {row.numpy().tobytes() for row in part[0]}


def test_digits_are_stratified_standardised_and_disjoint():
    split = data.digits()
    parts = (split.train, split.validation, split.test)
    assert split.classes == 10
    assert split.pixels == 64
    assert sum(len(labels) for _, labels in parts) == 1797
    for (inputs, labels), share in zip(parts, data.FRACTIONS, strict=True):
        assert inputs.shape == (len(labels), 64)
        assert inputs.dtype == torch.float32
        # Each class is cut at a whole number, so that it misses its share by one at most.
        whole = torch.bincount(torch.cat([labels for _, labels in parts]))
        assert (torch.bincount(labels) - share * whole).abs().max() <= 1
    # Sums of a thousand float32 numbers.
    assert split.train[0].mean(0).abs().max() < 1e-5
    assert split.train[0].square().mean().item() == pytest.approx(1, abs=1e-5)
    # Three pixels never vary, and the images differ in the others.
    assert sum(len(rows(part)) for part in parts) == len(set.union(*map(rows, parts)))


def test_the_seed_makes_the_split():
    first, again, other = data.digits(3), data.digits(3), data.digits(4)
    assert torch.equal(first.test[0], again.test[0])
    assert not torch.equal(first.test[1], other.test[1])


def test_digits_as_images_are_the_same_numbers():
    flat, images = data.digits(), data.digits(images=True)
    assert images.train[0].shape[1:] == (1, 8, 8)
    assert torch.equal(images.test[0].flatten(1), flat.test[0])


def test_a_split_moves_to_a_device():
    moved = data.digits().to("meta")
    assert moved.test[1].device.type == "meta"
    assert moved.classes == 10


@pytest.mark.parametrize("zipped", [False, True])
def test_a_right_folder_is_read(folder, zipped):
    plain = data.idx_folder(folder, images=True)
    if zipped:
        for path in list(folder.iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    split = data.idx_folder(folder, images=True)
    assert split.train[0].shape == (50, 1, SIDE, SIDE)
    assert split.validation[0].shape == (10, 1, SIDE, SIDE)
    assert torch.bincount(split.validation[1]).tolist() == [1] * 10
    assert split.test[1].tolist() == [*range(10)] * 2
    assert torch.equal(split.train[0], plain.train[0])
    assert torch.equal(data.load(str(folder)).test[0], split.test[0].flatten(1))


def test_values_come_back_in_their_places(folder):
    split = data.idx_folder(folder)
    raw = np.frombuffer((folder / data.FILES["test"][0]).read_bytes(), np.uint8, offset=16)
    raw = torch.from_numpy(raw.reshape(TEST, -1).astype(np.float64))
    # Standardisation is one slope, and one offset a pixel.
    slope = (raw[0] - raw[1]) / (split.test[0][0] - split.test[0][1]).double()
    assert (slope / slope[0] - 1).abs().max() < 1e-4


def spoil(folder, change, name=data.FILES["train"][0]):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    return path


IMAGES = 16 + TRAIN * SIDE * SIDE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-1], rf"must have {IMAGES} bytes.*it has {IMAGES - 1}"),
        (lambda b: b + b"\0", rf"must have {IMAGES} bytes.*it has {IMAGES + 1}"),
        (lambda b: b[:7], "must begin with a header of 16 bytes; it has 7 bytes"),
        (lambda b: b"", "must begin with a header of 16 bytes; it has 0 bytes"),
        (
            lambda b: struct.pack(">I", 2049) + b[4:],
            "must begin with the magic number 2051.*it begins with 2049",
        ),
        (lambda b: struct.pack("<I", 2051) + b[4:], "magic number 2051"),
        (
            lambda b: struct.pack(">4I", 2051, 0, SIDE, SIDE),
            r"must hold something; its header says \[0, 5, 5\]",
        ),
        (
            lambda b: struct.pack(">4I", 2051, TRAIN - 1, SIDE, SIDE) + b[16 : -SIDE * SIDE],
            f"a label for each of the {TRAIN - 1} images .* it holds {TRAIN}",
        ),
        (
            lambda b: struct.pack(">4I", 2051, TRAIN, SIDE * SIDE, 1) + b[16:],
            r"must be of one size; they were \(25, 1\) and \(5, 5\)",
        ),
        (lambda b: struct.pack(">4I", 2051, TRAIN, SIDE, SIDE) + bytes(len(b) - 16), "differ"),
    ],
)
def test_a_broken_file_is_refused(folder, change, message):
    spoil(folder, change)
    with pytest.raises(ValueError, match=message):
        data.idx_folder(folder)


def test_the_error_names_the_file(folder):
    path = spoil(folder, lambda b: b[:-1], data.FILES["test"][1])
    with pytest.raises(ValueError, match=path.name):
        data.idx_folder(folder)


def test_a_test_label_that_training_lacks_is_refused(folder):
    spoil(folder, lambda b: b[:-1] + b"\x0b", data.FILES["test"][1])
    with pytest.raises(ValueError, match="where the largest is 9; there was 11"):
        data.idx_folder(folder)


@pytest.mark.parametrize(
    "broken", [b"no gzip", gzip.compress(bytes(100))[:-9], b""], ids=["other", "cut", "empty"]
)
def test_a_broken_gzip_is_refused(folder, broken):
    name = data.FILES["train"][0]
    (folder / name).unlink()
    (folder / f"{name}.gz").write_bytes(broken)
    with pytest.raises(ValueError, match=rf"{name}.gz"):
        data.idx_folder(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    (folder / data.FILES["test"][1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"{data.FILES['test'][1]} must be there"):
        data.idx_folder(folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        data.idx_folder(tmp_path / "elsewhere")


def test_images_are_thinned_out_and_spread(folder):
    small, same = data.digits(images=True, side=4), data.digits(images=True, side=8)
    large, plain = data.digits(images=True, side=16), data.digits(images=True)
    assert torch.equal(same.test[0], plain.test[0])
    # Each is standardised at its own size: one slope for all pixels.
    for split, shown in ((small, plain.test[0][..., ::2, ::2]), (large, plain.test[0])):
        inputs = split.test[0] if split is small else split.test[0][..., ::2, ::2]
        ratio = (inputs / shown)[shown.abs() > 0.1]
        assert (ratio / ratio[0] - 1).abs().max() < 1e-4
        assert split.train[0].square().mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(large.test[0][..., ::2, ::2], large.test[0][..., 1::2, 1::2])
    assert data.idx_folder(folder, side=10).pixels == 100
    assert data.load(str(folder), images=True, side=1).train[0].shape == (50, 1, 1, 1)


@pytest.mark.parametrize("side", [0, 3, 12])
def test_a_side_that_does_not_divide_is_refused(side):
    with pytest.raises(ValueError, match=f"side must be a part or .*; it was {side}.* 8×8"):
        data.digits(side=side)


def test_a_name_stands_for_a_folder_and_names_its_package(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(data.FOLDERS, "fashion-mnist", folder)
    assert torch.equal(data.load("fashion-mnist").test[0], data.idx_folder(folder).test[0])
    monkeypatch.setitem(data.FOLDERS, "fashion-mnist", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere, where .* dataset-fashion-mnist puts it"):
        data.load("fashion-mnist")
