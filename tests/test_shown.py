"""Results print in a page's width and show themselves in a notebook; names from outside are escaped."""

from ghostsearch import find_sites, load_model
from ghostsearch.models.load import example_input
from ghostsearch.shown import WIDTH, html_table, text_table


def test_lines_fit_the_page_and_nothing_is_lost():
    text = text_table("a title", ["name", "value"], [["x" * 150, "[bold]y[/bold]"], ["z", "1"]])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("x") == 150
    assert "[bold]y[/bold]" in text, "no markup of others is obeyed"


def test_html_is_escaped():
    html = html_table("<script>", ["<b>"], [["<img src=x onerror=alert(1)>"]])
    assert "<script>" not in html
    assert "<img" not in html
    assert "&lt;img src=x" in html


def test_an_anatomy_lists_sites_and_reasons():
    loaded = load_model("ghostsearch:digits_cnn")
    anatomy = find_sites(loaded.module, example_input(loaded.input))
    assert anatomy.sites[0].path in str(anatomy)
    assert anatomy.sites[0].path in anatomy._repr_html_()
    assert anatomy.skipped[0].reason.split()[0] in str(anatomy)
