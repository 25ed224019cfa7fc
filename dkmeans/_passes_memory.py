"""What a worker takes before it holds any data. No library is imported for it."""

# Resident with all loaded that a job imports, and with kernels that were compiled before: measured.
WORKER = 215 << 20
