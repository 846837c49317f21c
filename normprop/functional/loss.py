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

So ℓ = σy + μ, and :func:`loss_constants` has μ and σ.
"""

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from normprop import rules
from normprop.functional.scale import (
    Constants,
    Scaling,
    constant_when_compiled,
    literal,
    normalized,
    upcast,
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised cross-entropy over C classes.

    For a uniform class and q its smoothed one-hot vector, μ = E log Σ e^x - mean,
    :math:`\sigma_f^2 = \mathrm{Var}\log S - 2s^2/C + s^2\|q\|^2` and
    :math:`\sigma_b^2 = E(p_i - q_i)^2`; a mean over N samples divides σ_f by √N and σ_b by N.

    Args:
        input: shape (N, C, …) or (C,).
        target: classes, shape (N, …) or (); or probabilities, shape of ``input``, which the
            constants take for classes.
        ignore_index: as in torch; samples that it leaves out are not in the constants.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        label_smoothing: as in torch.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input; it has no effect.
        std: standard deviation of the input, greater than 0 and at most 20.
        constants: the constants, where they are at hand; then scaling, mean and std have no
            say.

    Returns:
        A number, or a tensor of the shape of the classes for ``"none"``.

    Raises:
        ValueError: an argument is out of its range, or there is a single class.
    """
    arguments = (("reduction", reduction), ("label_smoothing", label_smoothing))
    constants = constants or _constants(nn.CrossEntropyLoss, arguments, input, scaling, mean, std)

    def loss(x: Tensor) -> Tensor:
        goal = upcast(target) if target.is_floating_point() else target
        return torch_functional.cross_entropy(
            x, goal, None, None, ignore_index, None, reduction, label_smoothing
        )

    return normalized(loss, input, constants)


def nll_loss(
    input: Tensor,
    target: Tensor,
    ignore_index: int = -100,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised -x_t; for a uniform class μ = -mean, σ_f = std and σ_b = C^(-½) a sample.

    Arguments, return and errors are those of :func:`cross_entropy`.
    """
    arguments = (("reduction", reduction),)
    constants = constants or _constants(nn.NLLLoss, arguments, input, scaling, mean, std)

    def loss(x: Tensor) -> Tensor:
        return torch_functional.nll_loss(x, target, None, None, ignore_index, None, reduction)

    return normalized(loss, input, constants)


def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised squared error.

    With the distance x - t ~ N(δ, τ²), μ = δ² + τ², :math:`\sigma_f^2 = 2\tau^4 + 4\delta^2\tau^2`
    and :math:`\sigma_b^2 = 4(\delta^2 + \tau^2)` an element; a mean over N of them divides σ_f by
    √N and σ_b by N.

    Args:
        input: any shape.
        target: the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        scaling: which standard deviation divides in which pass.
        mean: mean of the input.
        std: standard deviation of the input, greater than 0.
        target_mean: mean of the target.
        target_std: standard deviation of the target, greater than 0.
        constants: the constants, where they are at hand; then the scaling and the laws have no
            say.

    Returns:
        A number, or a tensor of the shape of ``input`` for ``"none"``.

    Raises:
        ValueError: an argument is out of its range, or the shapes differ.
    """
    arguments = (("reduction", reduction),)
    return _regression(
        nn.MSELoss,
        arguments,
        lambda x, t: torch_functional.mse_loss(x, t, reduction=reduction),
        (input, target),
        (scaling, mean, std, target_mean, target_std, constants),
    )


def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    """Normalised absolute error; arguments, return and errors are those of :func:`mse_loss`."""
    arguments = (("reduction", reduction),)
    return _regression(
        nn.L1Loss,
        arguments,
        lambda x, t: torch_functional.l1_loss(x, t, reduction=reduction),
        (input, target),
        (scaling, mean, std, target_mean, target_std, constants),
    )


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    beta: float = 1.0,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised d²/(2 beta) up to ``beta``, \|d\| - beta/2 beyond; see :func:`mse_loss`."""
    arguments = (("reduction", reduction), ("beta", beta))
    return _regression(
        nn.SmoothL1Loss,
        arguments,
        lambda x, t: torch_functional.smooth_l1_loss(x, t, reduction=reduction, beta=beta),
        (input, target),
        (scaling, mean, std, target_mean, target_std, constants),
    )


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    target_mean: float = 0.0,
    target_std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised d²/2 up to ``delta``, delta(\|d\| - delta/2) beyond; see :func:`mse_loss`."""
    arguments = (("reduction", reduction), ("delta", delta))
    return _regression(
        nn.HuberLoss,
        arguments,
        lambda x, t: torch_functional.huber_loss(x, t, reduction=reduction, delta=delta),
        (input, target),
        (scaling, mean, std, target_mean, target_std, constants),
    )


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised -t log σ(x) - (1 - t) log σ(-x) for labels t of 0 and 1 of even chances.

    At N(0, 1), μ = E log(1 + e^x), σ_f = Std log(1 + e^x) and σ_b = √E sigmoid(x)² an element.
    Arguments, return and errors are those of :func:`mse_loss`, but that the target has no law.
    """
    arguments = (("reduction", reduction),)
    return _regression(
        nn.BCEWithLogitsLoss,
        arguments,
        lambda x, t: torch_functional.binary_cross_entropy_with_logits(x, t, reduction=reduction),
        (input, target),
        (scaling, mean, std, 0.0, 1.0, constants),
    )


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised log(1 + e^(-tx)) for labels t of -1 and 1 of even chances.

    Constants, arguments, return and errors are those of
    :func:`binary_cross_entropy_with_logits`.
    """
    arguments = (("reduction", reduction),)
    return _regression(
        nn.SoftMarginLoss,
        arguments,
        lambda x, t: torch_functional.soft_margin_loss(x, t, reduction=reduction),
        (input, target),
        (scaling, mean, std, 0.0, 1.0, constants),
    )


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised mean over C labels of :func:`binary_cross_entropy_with_logits`, (N, C).

    A sample has σ_f/√C and σ_b/C of that.  Arguments, return and errors are those of
    :func:`binary_cross_entropy_with_logits`, but that a sample has one loss.
    """
    arguments = (("reduction", reduction),)
    return _regression(
        nn.MultiLabelSoftMarginLoss,
        arguments,
        lambda x, t: torch_functional.multilabel_soft_margin_loss(x, t, reduction=reduction),
        (input, target),
        (scaling, mean, std, 0.0, 1.0, constants),
    )


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    reduction: str = "mean",
    *,
    scaling: Scaling = "backward",
    mean: float = 0.0,
    std: float = 1.0,
    constants: Constants | None = None,
) -> Tensor:
    r"""Normalised x for the label 1, max(margin - x, 0) for the label -1, of even chances.

    Arguments, return and errors are those of :func:`binary_cross_entropy_with_logits`.
    """
    arguments = (("reduction", reduction), ("margin", margin))
    return _regression(
        nn.HingeEmbeddingLoss,
        arguments,
        lambda x, t: torch_functional.hinge_embedding_loss(x, t, margin, reduction=reduction),
        (input, target),
        (scaling, mean, std, 0.0, 1.0, constants),
    )


def _regression(
    loss_type: type[nn.Module],
    arguments: tuple,
    function: Callable[[Tensor, Tensor], Tensor],
    tensors: tuple[Tensor, Tensor],
    options: tuple,
) -> Tensor:
    input, target = tensors
    scaling, mean, std, target_mean, target_std, constants = options
    if input.shape != target.shape:
        raise ValueError(
            "input and target must have the same shape; "
            f"they had {tuple(input.shape)} and {tuple(target.shape)}"
        )
    constants = constants or _constants(
        loss_type, arguments, input, scaling, mean, std, target_mean, target_std
    )
    goal = upcast(target) if target.is_floating_point() else target
    return normalized(lambda x: function(x, goal), input, constants)


def _constants(
    loss_type, arguments, input, scaling, mean, std, target_mean=0.0, target_std=1.0
) -> Constants:
    shape = tuple(int(size) for size in input.shape)
    law, target = (literal(mean), literal(std)), (literal(target_mean), literal(target_std))
    return loss_constants(loss_type, arguments, shape, scaling, law, target)


@constant_when_compiled
def loss_constants(
    loss_type: type[nn.Module],
    arguments: tuple[tuple[str, object], ...],
    shape: tuple[int, ...],
    scaling: Scaling,
    law: tuple[float, float] = (0.0, 1.0),
    target: tuple[float, float] = (0.0, 1.0),
) -> Constants:
    """Constants of a loss of ``torch.nn`` for an input of this shape.

    Args:
        loss_type: its class.
        arguments: pairs of names and values that it is made with.
        shape: of the whole input.
        scaling: which standard deviation divides in which pass.
        law: mean and standard deviation of the input.
        target: mean and standard deviation of a regression's target.
    """
    return _cached(loss_type, arguments, shape, scaling, law, target)


@lru_cache(maxsize=1024, typed=True)
def _cached(loss_type, arguments, shape, scaling, law, target) -> Constants:
    loss = loss_type(**dict(arguments))
    goal = rules.check_law(*target)
    loss.target_mean, loss.target_std = goal.mean, goal.std
    return Constants.of(rules.moments(loss, *law, shape=shape), scaling)
