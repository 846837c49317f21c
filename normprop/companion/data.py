"""Two data sets: scikit-learn's embedded digits, and a folder of IDX files.

Fashion-MNIST, in Debian's package, is such a folder and is known by its name.

Inputs are centred element by element and divided by one number, so that over the training
images each element has mean 0 and the mean square of all elements is 1.  Dividing each
element by a deviation of its own would blow up the ones that are almost always blank.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FRACTIONS = (0.6, 0.2, 0.2)
"""Shares of the digits for training, validation and test."""
VALIDATION_SHARE = 1 / 6
"""Share of an IDX folder's training images that is kept for validation."""
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where Debian's packages put the data sets that are known by a name."""
_IMAGES, _LABELS = 2051, 2049


@dataclass(frozen=True)
class Split:
    """Inputs and labels in three parts.

    Attributes:
        train: inputs, float32 of shape (N, pixels) or (N, 1, height, width), and labels,
            int64 of shape (N,).
        validation: the same, to choose learning rates with.
        test: the same, to be looked at once.
        classes: number of labels.
    """

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int

    @property
    def pixels(self) -> int:
        """Number of elements of an input."""
        return self.train[0][0].numel()

    def to(self, device: str | torch.device) -> "Split":
        """The same on a device."""
        parts = {
            part: tuple(tensor.to(device) for tensor in getattr(self, part))
            for part in ("train", "validation", "test")
        }
        return replace(self, **parts)


def digits(seed: int = 0, *, images: bool = False, side: int | None = None) -> Split:
    """The 1797 images of 8×8 pixels that come with scikit-learn, in 10 classes.

    Args:
        seed: of the split, which is stratified: each part has each class in its share.
        images: inputs of shape (N, 1, 8, 8) instead of (N, 64).
        side: to which images are brought first, see :func:`load`.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: ``side`` is no multiple of 8 and no part of it.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as problem:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed; the extra [book] has it"
        ) from problem
    raw = load_digits()
    parts = _stratified(raw.target, FRACTIONS, seed)
    pictures = raw.images.astype(np.float32)
    return _split([(pictures[part], raw.target[part]) for part in parts], images, side)


def idx_folder(
    path: str | Path, seed: int = 0, *, images: bool = False, side: int | None = None
) -> Split:
    """A folder of four IDX files, as of MNIST or Fashion-MNIST; each may be gzipped.

    Debian's package ``dataset-fashion-mnist`` is such a folder.  A sixth of the training
    images, the same number of each class but for rounding, is kept for validation.

    Args:
        path: the folder.
        seed: of the split.
        images: inputs of shape (N, 1, height, width) instead of (N, height·width).
        side: to which images are brought first, see :func:`load`.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: a file is no IDX file of its kind, is truncated or too long, or the files
            do not belong together; or the images cannot be brought to ``side``.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of IDX files; there is no such folder")
    pictures, labels = _pair(folder, "train")
    test = _pair(folder, "test")
    if pictures.shape[1:] != test[0].shape[1:]:
        raise ValueError(
            f"{folder}: training and test images must be of one size; they were "
            f"{pictures.shape[1:]} and {test[0].shape[1:]}"
        )
    if test[1].max() > labels.max():
        raise ValueError(
            f"{folder}: test labels must occur in training, where the largest is "
            f"{labels.max()}; there was {test[1].max()}"
        )
    train, validation = _stratified(labels, (1 - VALIDATION_SHARE, VALIDATION_SHARE), seed)
    parts = [(pictures[train], labels[train]), (pictures[validation], labels[validation]), test]
    return _split(parts, images, side)


def load(name: str, *, images: bool = False, side: int | None = None) -> Split:
    """The data set of that name.

    Args:
        name: ``"digits"``, one of ``FOLDERS``, or the path of a folder of IDX files.
        images: inputs of shape (N, 1, height, width) instead of (N, height·width).
        side: height and width that square images are brought to: to a k-th of theirs by every
            k-th pixel of every k-th row, to k times theirs by each pixel k times each way.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the images cannot be brought to ``side``.
    """
    if name == "digits":
        return digits(images=images, side=side)
    if name in FOLDERS and not FOLDERS[name].is_dir():
        raise FileNotFoundError(
            f"{name!r} must lie in {FOLDERS[name]}, where Debian's package dataset-{name} puts it; "
            "there is no such folder"
        )
    return idx_folder(FOLDERS.get(name, name), images=images, side=side)


def _split(parts, images: bool, side: int | None) -> Split:
    parts = [(_brought_to(side, pictures), labels) for pictures, labels in parts]
    reference = parts[0][0].astype(np.float32)
    centre = reference.mean(0)
    scale = math.sqrt(np.square(reference - centre, dtype=np.float64).mean())
    if scale == 0:
        raise ValueError("the training images must differ; they are all the same")
    tensors = []
    for pictures, labels in parts:
        inputs = torch.from_numpy((pictures.astype(np.float32) - centre) / np.float32(scale))
        inputs = inputs.unsqueeze(1) if images else inputs.flatten(1)
        tensors.append((inputs, torch.from_numpy(labels.astype(np.int64))))
    return Split(*tensors, classes=int(parts[0][1].max()) + 1)


def _brought_to(side: int | None, pictures: np.ndarray) -> np.ndarray:
    height, width = pictures.shape[1:]
    if side is None or height == width == side:
        return pictures
    if height == width and side >= 1:
        if height % side == 0:
            return pictures[:, :: height // side, :: height // side]
        if side % height == 0:
            return pictures.repeat(side // height, 1).repeat(side // height, 2)
    raise ValueError(
        f"side must be a part or a multiple of that of square images; it was {side}, and the "
        f"images have {height}×{width} pixels"
    )


def _stratified(labels: np.ndarray, fractions, seed: int) -> list[np.ndarray]:
    """Indices of each part, class by class in these fractions, the last part taking the rest."""
    generator = np.random.default_rng(seed)
    parts = [[] for _ in fractions]
    for label in np.unique(labels):
        indices = generator.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(fractions[:-1]) * len(indices)).astype(int)
        for part, chunk in zip(parts, np.split(indices, ends), strict=True):
            part.append(chunk)
    return [generator.permutation(np.concatenate(part)) for part in parts]


def _pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (_found(folder, name) for name in FILES[part])
    pictures, targets = _read(images, _IMAGES, 3), _read(labels, _LABELS, 1)
    if len(pictures) != len(targets):
        raise ValueError(
            f"{labels} must hold a label for each of the {len(pictures)} images of {images.name}; "
            f"it holds {len(targets)}"
        )
    return pictures, targets


def _found(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{folder / name} must be there, or the same with .gz; neither is in the folder"
    )


def _read(path: Path, magic: int, dims: int) -> np.ndarray:
    """The unsigned bytes of an IDX file, in its shape."""
    content = _content(path)
    start = 4 + 4 * dims
    if len(content) < start:
        raise ValueError(
            f"{path} must begin with a header of {start} bytes; it has {len(content)} bytes"
        )
    found, *shape = struct.unpack(f">{1 + dims}I", content[:start])
    if found != magic:
        raise ValueError(
            f"{path} must begin with the magic number {magic}, unsigned bytes in {dims} "
            f"dimension{'s' * (dims > 1)}; it begins with {found}"
        )
    if 0 in shape:
        raise ValueError(f"{path} must hold something; its header says {shape}")
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{path} must have {start + math.prod(shape)} bytes, by its header's {shape}; "
            f"it has {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as problem:
        raise ValueError(f"{path} must be a whole gzip file; {problem}") from problem
