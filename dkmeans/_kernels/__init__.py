"""Compiled inner loops: NumPy arrays in, NumPy arrays out.

Every kernel is serial and releases the GIL; the parallelism is Dask's. Arguments that a
kernel writes to are marked OUT in its docstring, all others are only read. Set
``NUMBA_DISABLE_JIT=1`` to run the same code as plain Python.
"""
