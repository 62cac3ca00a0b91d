"""The commands, one module for each panel of `skewless --help`; `app` gathers them."""
