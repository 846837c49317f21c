"""What belongs to the process and is borrowed: dice, hooks of all modules, numbers of threads."""

import threading

ALONE = threading.RLock()
"""Who looks at a model or simulates a layer has it meanwhile.

Another thread would take what is borrowed for the user's, and put back what it found.
"""
