"""What jobs leave out of the terminal."""

from __future__ import annotations

import logging

from discern.training.job import quiet_libraries


def test_matplotlib_does_not_say_that_it_has_listed_the_fonts(monkeypatch):
    fonts = logging.getLogger("matplotlib.font_manager")
    monkeypatch.setattr(fonts, "level", logging.NOTSET)
    quiet_libraries()
    assert not fonts.isEnabledFor(logging.INFO)
    fonts.setLevel(logging.DEBUG)  # as hydra.verbose=matplotlib.font_manager does
    quiet_libraries()
    assert fonts.isEnabledFor(logging.DEBUG)
