"""Ends that are asked for, by SIGTERM or Ctrl-C, taken note of until work is in a state that can be kept."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def defer_signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT in a list instead of acting on them, so that a step is never cut in two.

    Only a process's main thread can; in another one the list stays empty, and signals act as they do.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, lambda number, _: caught.append(number))
              for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def reraise_signals(caught: list[int], sentence: str) -> None:
    """End as the sender of the signals expects: SIGTERM ends the process, a notebook's kernel too.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with a sentence on what has been kept.
    """
    if signal.SIGTERM in caught:
        signal.raise_signal(signal.SIGTERM)
    if caught:
        raise KeyboardInterrupt(sentence)
