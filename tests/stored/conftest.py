"""Tests beside the real bitsandbytes. ``make unit`` keeps it in a folder of its own, and without it there are none here:
wherever it is found, PEFT imports it, and that takes longer than most of the other tests."""

from importlib import util

from tests.recommender.test_scripts import folders  # noqa: F401 - a fixture

collect_ignore_glob = [] if util.find_spec("bitsandbytes") else ["test_*.py"]
