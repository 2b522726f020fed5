"""Reference implementations: one method, one file. Imports none of the other rooms.

The folder is the registry: every public module in it is a method. What methods share stands in modules that begin with
an underscore; ``ladder`` and ``training`` hold the default run, ``parts`` what single methods are made of.
"""

from pathlib import Path


def slugs() -> list[str]:
    """Every implemented method, in alphabetical order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
