"""What a verb did to a model, kept with the model that it returned."""

import sys
from typing import TypeVar

from torch import nn

from normprop.graph.wrappers import check_model

_Model = TypeVar("_Model", bound=nn.Module)


def remember(model: _Model, found) -> _Model:
    """Keep what was done with the model, in the place of what an earlier verb has left.

    A folded network is unpickled where there is no normprop, so that the model carries the name
    of the class, which normprop exports, and fields of Python's own types.
    """
    model._normprop_report = (type(found).__name__, dict(vars(found)))
    return model


def report(model: nn.Module):
    """What :func:`convert`, :func:`fuse` or :func:`fold` did to a model, and what it left and why.

    The report goes where the model goes: into its copies and, by ``torch.save``, into a file.
    Of a model that went through several verbs it is that of the last.

    Args:
        model: what a verb returned, or a copy of it.

    Returns:
        :class:`Conversion` or :class:`Report`; each prints as a table.

    Raises:
        TypeError: the model is no module.
        ValueError: no verb has returned this model.
    """
    check_model(model)
    found = getattr(model, "_normprop_report", None)
    if found is None:
        raise ValueError(
            "model must be what convert, fuse or fold returned; "
            f"this {type(model).__name__} carries no report"
        )
    name, fields = found
    return getattr(sys.modules[__package__], name)(**fields)
