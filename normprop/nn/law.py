"""What the twins without parameters share: printing the law of their input."""

from torch import nn


def law_repr(layer: nn.Module) -> str:
    """The arguments that torch's twin does not have, as ``extra_repr`` prints them."""
    text = f"scaling={layer.scaling!r}, mean={layer.mean:g}, std={layer.std:g}"
    after = getattr(layer, "after", None)
    return text if after is None else f"{text}, after={after}"


def joined(*parts: str) -> str:
    """Parts of an ``extra_repr``, without the empty ones."""
    return ", ".join(part for part in parts if part)


def refuse_inplace(inplace: bool) -> None:
    """Refuse what would overwrite a tensor that the backward pass needs."""
    if inplace:
        raise ValueError("inplace must be False: a normalised layer keeps its input; it was True")
