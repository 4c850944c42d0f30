"""The page of ``jedi-env report``: one HTML file that needs nothing else, no network, no fonts, no scripts."""

from trainers.report_page.page import Made, render, summary

__all__ = ["Made", "render", "summary"]
