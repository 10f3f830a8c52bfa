"""Results print in a page's width and show themselves in a notebook; names from outside are escaped."""

import io

import pytest
from rich.console import Console

from ghostsearch import find_sites, load_model
from ghostsearch.models.load import example_input
from ghostsearch.shown import WIDTH, html_table, notebook_bar, text_table


def test_lines_fit_the_page_and_nothing_is_lost():
    text = text_table("a title", ["name", "value"], [["x" * 150, "[bold]y[/bold]"], ["z", "1"]])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.count("x") == 150
    assert "[bold]y[/bold]" in text, "no markup of others is obeyed"


@pytest.mark.filterwarnings("ignore:install .ipywidgets")
@pytest.mark.parametrize("widgets", [True, None])
def test_progress_shows_in_a_notebook_with_and_without_widgets_but_not_in_a_script(monkeypatch, widgets):
    monkeypatch.setattr("ghostsearch.shown.find_spec", lambda name: widgets)

    def mine(done, total, text):
        pass

    with notebook_bar(None) as nothing, notebook_bar(mine) as given:
        assert nothing is None
        assert given is mine
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(screen, "is_jupyter", True)
    monkeypatch.setattr("rich.get_console", lambda: screen)
    with notebook_bar(None) as report:
        monkeypatch.setattr(screen, "is_jupyter", False)
        report(3, 8, "trials")
    assert "trials" in screen.file.getvalue()
    assert "3/8" in screen.file.getvalue()


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
