"""Sphinx's settings for the site that `build` stages. Nothing comes from a CDN: fonts are the
reader's own, search runs in the page.
"""

import logging

logging.getLogger("great_expectations").setLevel(logging.WARNING)

project = "Skewless"
author = "The Skewless authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Skewless"
html_copy_source = False
myst_heading_anchors = 4
# Markdown's fences may name languages that Pygments does not know.
suppress_warnings = ["misc.highlighting_failure"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
