"""Cases, runner and goals of ``make bench``: what normalising costs, beside what others cost."""
