"""The nodes of autograd's graph."""


def nodes_behind(output) -> set:
    """Those that a backward pass from this tensor would run."""
    found, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [before for before, _ in node.next_functions]
    return found
