"""The witness: run the real layer on random numbers and count.

No formula of :mod:`normprop.gaussian` is used here, nor imported: a figure that both roads
reach was reached twice.  On CUDA a kernel may stand for torch's layer, with functions of its own.

A simulation is a fixed number of independent replicates, each a fixed number of blocks, each
block with random numbers of its own, a function of (seed, replicate, block) alone; replicates too
small to be worth a call share a block, always the same ones.  So the result depends neither on
how many blocks are in flight nor on which process runs which replicate; and the scatter of the
replicates is the standard error, whatever the dependence among the elements of one tensor.
"""

from normprop.montecarlo.simulation import simulate
from normprop.montecarlo.statistics import Simulation

__all__ = ["Simulation", "simulate"]
