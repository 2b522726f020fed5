"""The default run: a small base, a ladder of three tasks above what it knows, and the climb of one rung."""
