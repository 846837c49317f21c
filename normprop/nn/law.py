"""What the twins without parameters share: printing the law of their input."""

from torch import nn

from normprop.functional.scale import refuse_inplace

__all__ = ["joined", "law_repr", "refuse_inplace"]


def law_repr(layer: nn.Module) -> str:
    """The arguments that torch's twin does not have, as ``extra_repr`` prints them."""
    text = f"scaling={layer.scaling!r}, mean={layer.mean:g}, std={layer.std:g}"
    after = getattr(layer, "after", None)
    return text if after is None else f"{text}, after={after}"


def joined(*parts: str) -> str:
    """Parts of an ``extra_repr``, without the empty ones."""
    return ", ".join(part for part in parts if part)
