"""The documentation as a site: ``python docs/site/build.py OUTPUT`` (`make docs`).

The pages of ``docs/`` are copied beside the pages that are made from the code (`reference_pages`)
and the README, whose links are turned to where the site has them; then Sphinx builds them. A link
to nowhere, or a page that no other names, is an error.
"""

import re
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
DOCS, ROOT = HERE.parent, HERE.parents[1]
sys.path.insert(0, str(HERE))

import reference_pages  # noqa: E402 - beside this file

QUICK_START = "quick-start.md"
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def main(output: Path) -> int:
    """Stage and build; the exit code of Sphinx."""
    source = output / "source"
    if source.exists():
        shutil.rmtree(source)
    stage(source)
    quietly = ["-q", "--fail-on-warning", "--keep-going", "-b", "html"]
    return build_main([*quietly, "-d", str(output / "doctrees"), str(source), str(output / "html")])


def stage(source: Path) -> None:
    """Write the pages of the site to the folder ``source``."""
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("site", "examples"))
    shutil.copytree(HERE, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "README.md", source / QUICK_START)
    for page in source.rglob("*.md"):
        name = page.relative_to(source)
        origin = HERE / name if (HERE / name).is_file() else DOCS / name
        if name.name == QUICK_START:
            origin = ROOT / "README.md"
        page.write_text(with_site_links(page.read_text(), origin.parent, name))
    reference_pages.write(source / "reference")


def with_site_links(text: str, folder: Path, page: Path) -> str:
    """The text of a file in ``folder``, with links as the site's ``page`` needs them.

    README.md is the quick start; of files that are no pages only the path is left.
    """

    def link(found: re.Match[str]) -> str:
        shown, target = found[1], found[2]
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return found[0]
        file = (folder / path).resolve()
        if file.is_relative_to(DOCS) and file.is_dir() and (file / "README.md").is_file():
            file /= "README.md"
        if file == ROOT / "README.md":
            to = QUICK_START
        elif file == DOCS:
            to = "index.md"
        elif file.suffix == ".md" and file.is_relative_to(DOCS):
            to = file.relative_to(DOCS).as_posix()
        else:
            return shown if path in shown else f"{shown} (`{file.relative_to(ROOT)}`)"
        up = "../" * (len(page.parts) - 1)
        return f"[{shown}]({up}{to}{'#' + anchor if anchor else ''})"

    return _LINK.sub(link, text)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
