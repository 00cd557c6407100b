"""How ``make docs`` builds these pages."""

from discern import __version__

project = "discern"
copyright = "the authors of discern"  # noqa: A001 - Sphinx's name for it
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"discern {version}"

# What the notebook printed and drew is in it; docs/tour.py executes it.
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence"]
# Anchors as on GitHub, where these pages are read as well.
myst_heading_anchors = 4

napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

# Every name of discern's that a docstring refers to exists; of other packages no list is at hand.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!discern\.).*")]
