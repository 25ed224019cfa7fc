"""A contestant that costs nothing to load in a process of its own."""

MIB = 1 << 20


class Counter:
    """Holds 50 MiB while it runs, and tells of its rounds."""

    def __init__(self, name="", log=None, fails_at=None):
        self._name = name
        self._log = [] if log is None else log
        self._fails_at = fails_at

    def run(self, number):
        if number == self._fails_at:
            raise ArithmeticError("out of numbers")
        self._log.append((self._name, number))
        held = b"1" * (50 * MIB)
        return number if held else None

    def facts(self, result):
        return {"round": result}
