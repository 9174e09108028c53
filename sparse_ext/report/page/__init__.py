"""One HTML page of a comparison: its verdicts, plots and figures in one file that loads nothing. Needs the extra "report"."""

from ..record import Record


def html(record: Record) -> str:
    """The page of a comparison.

    Raises:
        ModuleNotFoundError: what it is made with is not installed; the message says how to install that.
    """
    try:
        from .page import html as page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        raise ModuleNotFoundError(
            f"expected {error.name}, got none; run `pip install 'sparse_ext[report]'`", name=error.name
        ) from error
    return page(record)
