"""Draws a lineage: one self-contained SVG, one self-contained HTML page, Mermaid text.

document of `lineage infer --json`  ->  base.read  ->  Lineage
Lineage  ->  layout, page (where things go)  ->  svg (how they look)  ->  html
"""

from __future__ import annotations

from lineage.report.base import Declared, Section
from lineage.report.html import html
from lineage.report.mermaid import mermaid
from lineage.report.svg import svg

__all__ = ["Declared", "Section", "html", "mermaid", "svg"]
