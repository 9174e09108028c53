"""What a failing child process leaves to read."""

import children
import pytest


@pytest.mark.parametrize(
    ("code", "seconds", "written"),
    [
        ("import nope", 60, "No module named 'nope'"),
        ("import time\ndef asleep():\n    time.sleep(60)\nasleep()", 2, "in asleep"),
    ],
)
def test_what_failed_is_said(code, seconds, written, tmp_path):
    (tmp_path / "well.py").write_text("")
    (tmp_path / "ill.py").write_text(code)
    children.run((tmp_path / "well.py", "an argument"))
    with pytest.raises(AssertionError, match=written):
        children.run((tmp_path / "ill.py",), (tmp_path / "well.py",), seconds=seconds)
