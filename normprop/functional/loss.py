r"""Normalised losses.

.. math:: y = \frac{\ell - \mu}{\sigma}

with the figures of the loss ℓ as it comes, reduction included, for independent predictions
x ~ N(mean, std²) and a target independent of them: N(target_mean, target_std²) for a regression,
a uniform class, a label of even chances.  A loss has the semantics of every other layer:

- ``"forward"``: σ = σ_f.  y counts how many standard deviations ℓ lies above what guessing costs,
  and has the true gradient.
- ``"backward"``: σ = σ_b.  y has the true gradient, whose entries have unit root mean square,
  whatever the number of samples and classes; y itself is large.
- ``"separate"``: y as under ``"forward"``, with the gradient of unit root mean square.

So ℓ = σy + μ, and ``constants_of`` of the layer of that name has μ and σ.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop.functional.constants import constants_of, sizes_of
from normprop.functional.keywords import Given, LawsOfBoth, by_place, tabled
from normprop.functional.scale import normalized, upcast

__all__ = [
    "binary_cross_entropy_with_logits", "cross_entropy", "hinge_embedding_loss", "huber_loss",
    "l1_loss", "mse_loss", "multilabel_soft_margin_loss", "nll_loss", "smooth_l1_loss",
    "soft_margin_loss",
]  # fmt: skip

_WEIGHTS = ("weight", "pos_weight")
_SAID = {
    "Returns": 'A number, or a tensor of the shape of ``input`` for ``"none"``.',
    "Raises": "ValueError: an argument is out of its range, or the shapes do not fit.",
    "target": "the same shape.",
    "reduction": '``"mean"``, ``"sum"`` or ``"none"``.',
    **dict.fromkeys(_WEIGHTS, "must be ``None``: with it not all elements have the same law."),
}


def _loss(
    name: str, layer_type: type[nn.Module], doc: str, keywords: type = Given
) -> Callable[..., Tensor]:
    """The normalised loss of that name in torch, its arguments in torch's positions."""
    run = getattr(torch_functional, name)
    of_classes = layer_type in (nn.CrossEntropyLoss, nn.NLLLoss)

    def body(arguments, law):
        input, target = arguments.pop("input"), arguments.pop("target")
        refuse_weights(arguments)
        own = {key: value for key, value in arguments.items() if key not in _WEIGHTS}
        if not of_classes:
            check_same_shape(input, target)
        constants = constants_of(layer_type, law, sizes_of(input.shape), **own)
        goal = goal_of(target)
        return normalized(lambda x: run(x, goal, **own), input, constants)

    return tabled(name, by_place(run), keywords, body, doc, **_SAID)


def refuse_weights(arguments: dict[str, object]) -> None:
    """Refuse weights, of which the constants know nothing."""
    for name in _WEIGHTS:
        if arguments.get(name) is not None:
            raise ValueError(f"{name} must be None: with it not all elements have the same law")


def check_same_shape(input: Tensor, target: Tensor) -> None:
    """Refuse a target that would be spread over the input."""
    if input.shape != target.shape:
        raise ValueError(
            "input and target must have the same shape; "
            f"they had {tuple(input.shape)} and {tuple(target.shape)}"
        )


def goal_of(target: Tensor) -> Tensor:
    """The target in the type that a loss is computed in."""
    return upcast(target) if target.is_floating_point() else target


cross_entropy = _loss(
    "cross_entropy",
    nn.CrossEntropyLoss,
    r"""Normalised cross-entropy over C classes.

    For a uniform class and q its smoothed one-hot vector, μ = E log Σ e^x - mean,
    :math:`\sigma_f^2 = \mathrm{Var}\log S - 2s^2/C + s^2\|q\|^2` and
    :math:`\sigma_b^2 = E(p_i - q_i)^2`; a mean over N samples divides σ_f by √N and σ_b by N.

    Args:
        input: shape (N, C, …) or (C,).
        target: classes, shape (N, …) or (); or probabilities, shape of ``input``, which the
            constants take for classes.
        ignore_index: as in torch; samples that it leaves out are not in the constants.
        mean: mean of the input; it has no effect.
        std: standard deviation of the input, greater than 0 and at most 20.

    Returns:
        A number, or a tensor of the shape of the classes for ``"none"``.

    Raises:
        ValueError: an argument is out of its range, or there is a single class.
    """,
)
nll_loss = _loss(
    "nll_loss",
    nn.NLLLoss,
    """Normalised -x_t; for a uniform class μ = -mean, σ_f = std and σ_b = C^(-½) a sample.

    Args:
        input: shape (N, C, …) or (C,).
        target: classes, shape (N, …) or ().
        ignore_index: as in torch; samples that it leaves out are not in the constants.

    Returns:
        A number, or a tensor of the shape of the classes for ``"none"``.
    """,
)
mse_loss = _loss(
    "mse_loss",
    nn.MSELoss,
    r"""Normalised squared error.

    With the distance x - t ~ N(δ, τ²), μ = δ² + τ², :math:`\sigma_f^2 = 2\tau^4 + 4\delta^2\tau^2`
    and :math:`\sigma_b^2 = 4(\delta^2 + \tau^2)` an element; a mean over N of them divides σ_f by
    √N and σ_b by N.
    """,
    LawsOfBoth,
)
l1_loss = _loss("l1_loss", nn.L1Loss, "Normalised absolute error.", LawsOfBoth)
smooth_l1_loss = _loss(
    "smooth_l1_loss",
    nn.SmoothL1Loss,
    r"Normalised d²/(2 beta) up to ``beta``, \|d\| - beta/2 beyond, of the distance d.",
    LawsOfBoth,
)
huber_loss = _loss(
    "huber_loss",
    nn.HuberLoss,
    r"Normalised d²/2 up to ``delta``, delta(\|d\| - delta/2) beyond, of the distance d.",
    LawsOfBoth,
)
binary_cross_entropy_with_logits = _loss(
    "binary_cross_entropy_with_logits",
    nn.BCEWithLogitsLoss,
    r"""Normalised -t log σ(x) - (1 - t) log σ(-x) for labels t of 0 and 1 of even chances.

    At N(0, 1), μ = E log(1 + e^x), σ_f = Std log(1 + e^x) and σ_b = √E sigmoid(x)² an element.
    """,
)
soft_margin_loss = _loss(
    "soft_margin_loss",
    nn.SoftMarginLoss,
    r"""Normalised log(1 + e^(-tx)) for labels t of -1 and 1 of even chances.

    Its constants are those of :func:`binary_cross_entropy_with_logits`.
    """,
)
multilabel_soft_margin_loss = _loss(
    "multilabel_soft_margin_loss",
    nn.MultiLabelSoftMarginLoss,
    r"""Normalised mean over C labels of :func:`binary_cross_entropy_with_logits`.

    A sample has σ_f/√C and σ_b/C of that.

    Args:
        input: shape (N, C) or (C,).

    Returns:
        A number, or one a sample for ``"none"``.
    """,
)
hinge_embedding_loss = _loss(
    "hinge_embedding_loss",
    nn.HingeEmbeddingLoss,
    "Normalised x for the label 1, max(margin - x, 0) for the label -1, of even chances.",
)
