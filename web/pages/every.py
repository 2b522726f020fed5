"""All pages, in the order in which their addresses are tried."""

from __future__ import annotations

from web.page import Page
from web.pages.ask import ESTIMATE, RECOMMEND
from web.pages.benchmarks import BENCHMARKS
from web.pages.browse import METHOD, PAGES
from web.pages.documentation import DOCUMENTATION
from web.pages.evidence import EVIDENCE

EVERY_PAGE: tuple[Page, ...] = (METHOD, RECOMMEND, ESTIMATE, *PAGES, *EVIDENCE, BENCHMARKS, DOCUMENTATION)
