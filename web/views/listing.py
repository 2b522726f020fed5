"""The parts of an implementation worth reading, found in its source: what each is and on which line it begins."""

from __future__ import annotations

import ast

from pydantic import Field

from web.views.base import View


class CodePart(View):
    """A class or function of an implementation."""

    name: str = Field(description="as the file names it")
    line: int = Field(description="line on which it begins")
    text: str = Field(description="first sentence of its docstring")
    href: str = Field(description="address of that line")


def parts_of(source: str, page: str) -> tuple[CodePart, ...]:
    """The classes and functions of a file that say what they do, in the order of the file; ``page`` shows the source."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            said = (ast.get_docstring(node) or "").strip().partition("\n")[0].replace("`", "")
            if said:
                line = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                found.append(CodePart(name=node.name, line=line, text=said, href=f"{page}#L{line}"))
    return tuple(found)
