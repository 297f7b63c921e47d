"""Settings of the documentation: `make docs` builds it with Sphinx, and takes warnings for errors.

Pages are Markdown. Neither building nor reading needs a network: no fonts, scripts or pictures from elsewhere. The
pages on options are made from the config classes by `options.py`, the API reference from docstrings.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from options import Options, leave_out_links_to_files, write_markdown_docstring

from jemb import __version__

project = "jemb"
author = "the authors of jemb"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

# Docstrings of ours are plain text with Markdown's backticks; see `write_markdown_docstring`.
default_role = "code"
smartquotes = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries = False

html_theme = "furo"
html_title = f"jemb {version}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["docs.css"]
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app):  # type: ignore[no-untyped-def]
    app.add_directive("options", Options)
    app.connect("autodoc-process-docstring", write_markdown_docstring)
    app.connect("source-read", leave_out_links_to_files)
