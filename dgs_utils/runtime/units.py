"""Durations and sizes, as they are printed."""


def format_duration(seconds: float) -> str:
    """Return seconds as "0:42" or "1:02:03".

    >>> format_duration(3723.4)
    '1:02:03'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_range(low: float, high: float) -> str:
    """Return a range of seconds, as roughly as it is known.

    >>> format_range(1660.2, 107_754), format_range(1_857_000, 2_548_000), format_range(92, 92.1)
    ('28 min to 30 h', '21 to 29 days', '92 s')
    """
    (first, smaller), (last, unit) = _in_largest_unit(low), _in_largest_unit(high)
    if (first, smaller) == (last, unit):
        return f"{last} {unit}"
    return f"{first}{'' if smaller == unit else f' {smaller}'} to {last} {unit}"


def _in_largest_unit(seconds: float) -> tuple[str, str]:
    units = (("days", 86_400), ("h", 3600), ("min", 60))
    unit, size = next((pair for pair in units if seconds >= 2 * pair[1]), ("s", 1))
    return f"{seconds / size:{'.0f' if seconds >= 10 * size else '.2g'}}", unit


def format_size(count: float) -> str:
    """Return a number of bytes as "12.3 MB".

    >>> format_size(12_345_678)
    '12.3 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
