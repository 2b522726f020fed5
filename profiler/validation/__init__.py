"""The profiler against what others measured: ``python -m profiler.validation`` prints the table and writes the report."""
