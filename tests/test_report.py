"""The report: one file that asks for no other, with all text escaped and every number in place."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import dermagan_jax
from dermagan_jax import images
from dermagan_jax.errors import DermaganError
from dermagan_jax.study.report import Figure, Section, Table, write_report

ATTACK = "<script>alert('x')</script><img src=x onerror=\"alert(1)\">&"
PNG = images.encode_png(np.full((2, 3, 3), 7, np.uint8))


class Page(HTMLParser):
    """What a report holds, as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.data.setdefault(tag, []).append("")
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self._open:
            self.data[self._open[-1]][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make(tmp_path: Path, *sections: Section, **kwargs) -> str:
    arguments = {"title": "Title", "notice": "Notice", "sections": sections, **kwargs}
    return write_report(tmp_path / "report.html", **arguments).read_text(encoding="utf-8")


@pytest.fixture
def sample(tmp_path) -> str:
    (tmp_path / "figure.png").write_bytes(PNG)
    table = Table("Scores", ["arm", "n", "accuracy"], [["real", 1576, 0.65494], ["both", 9, None]])
    section = Section(
        "Result",
        "First paragraph.\n\nSecond one.",
        [table],
        [Figure(tmp_path / "figure.png", "from a file", "a square"), Figure(PNG, "bytes", "two")],
    )
    return make(tmp_path, section, Section("Data"), commands=["dermagan demo --out runs/demo"])


def test_holds_title_notice_sections_version_and_commands(sample):
    page = Page(sample)
    assert page.data["title"] == page.data["h1"] == ["Title"]
    assert page.data["h2"] == ["Result", "Data"]
    assert page.data["p"][:3] == ["Notice", "First paragraph.", "Second one."]
    assert f"dermagan-jax {dermagan_jax.__version__}" in page.data["p"][-1]
    assert page.data["code"] == ["dermagan demo --out runs/demo"]
    assert page.data["a"] == ["Result", "Data"]


def test_tables_hold_their_cells_as_printed_and_as_sorted(sample):
    page = Page(sample)
    assert page.data["caption"] == ["Scores"]
    assert [text for text in page.data["button"] if text] == ["arm", "n", "accuracy"]
    assert page.data["td"] == ["1,576", "0.655", "9", "–"]  # noqa: RUF001
    assert [cell.get("data-number") for cell in page.all("td")] == [
        "1576.0",
        "0.65494",
        "9.0",
        None,
    ]
    assert all(cell["class"] == "number" for cell in page.all("td"))


def test_headings_of_columns_and_rows_have_a_scope(sample):
    scopes = [heading["scope"] for heading in Page(sample).all("th")]
    assert scopes == ["col"] * 3 + ["row"] * 2


def test_decimals_are_the_tables_own(tmp_path):
    page = Page(make(tmp_path, Section("S", tables=[Table("c", ["a"], [[1234.5678]], decimals=1)])))
    assert page.data["th"][-1] == "1,234.6"


def test_every_image_is_embedded_whole_and_has_its_alternative_text(sample):
    found = Page(sample).all("img")[:-1]  # the last one is the empty enlarged figure
    assert [image["alt"] for image in found] == ["a square", "two"]
    for image in found:
        head, data = str(image["src"]).split(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data) == PNG


def test_nothing_is_asked_of_any_other_file_or_host(sample):
    page = Page(sample)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", sample)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name, value)
    policy = next(m for m in page.all("meta") if "http-equiv" in m)["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_text_field_is_escaped(tmp_path):
    section = Section(
        f"1{ATTACK}",
        f"2{ATTACK}",
        [Table(f"3{ATTACK}", [f"4{ATTACK}", "n"], [[f"5{ATTACK}", f"6{ATTACK}"]])],
        [Figure(PNG, f"7{ATTACK}", f"8{ATTACK}")],
    )
    text = make(
        tmp_path, section, section, title=f"9{ATTACK}", notice=f"0{ATTACK}", commands=[f"A{ATTACK}"]
    )
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert len(page.all("img")) == 3
    # Read back, each text is whole: escaped once, neither lost nor twice.
    shown = [piece for pieces in page.data.values() for piece in pieces]
    for number in "123456790A":
        assert f"{number}{ATTACK}" in shown, number
    assert page.all("img")[0]["alt"] == f"8{ATTACK}"
    assert page.all("div")[0]["aria-label"] == f"3{ATTACK}"


def test_landmarks_language_viewport_and_dark_mode(sample):
    page = Page(sample)
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1, tag
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in sample
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(link["href"])[1:] for link in page.all("a")}
    assert targets <= set(ids)
    labels = {str(section["aria-labelledby"]) for section in page.all("section")}
    assert labels <= set(ids)


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb as WCAG 2 defines it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_stands_out_from_its_ground_in_light_and_dark(sample):
    palettes = re.findall(r":root \{(.*?)\}", sample, re.DOTALL)
    assert len(palettes) == 2
    for palette in palettes:
        colour = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", palette))
        pairs = [
            (ink, ground) for ink in ("ink", "muted", "accent") for ground in ("page", "panel")
        ]
        for ink, ground in [*pairs, ("notice-ink", "notice")]:
            dark, light = sorted((luminance(colour[ink]), luminance(colour[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_the_same_report_has_the_same_bytes_and_leaves_no_other_file(tmp_path):
    first = make(tmp_path, Section("S", "text"))
    assert make(tmp_path, Section("S", "text")) == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_one_section_needs_no_navigation(tmp_path):
    assert not Page(make(tmp_path, Section("S"))).all("nav")


def test_a_row_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'Scores'.*3 cells for 2 columns"):
        make(tmp_path, Section("S", tables=[Table("Scores", ["a", "b"], [[1, 2, 3]])]))


def test_figures_that_are_missing_or_no_png_are_named(tmp_path):
    with pytest.raises(DermaganError, match=r"lost\.png: cannot be read"):
        make(tmp_path, Section("S", figures=[Figure(tmp_path / "lost.png", "c", "a")]))
    (tmp_path / "text.png").write_text("<svg onload='alert(1)'>")
    with pytest.raises(DermaganError, match=r"text\.png: not a PNG"):
        make(tmp_path, Section("S", figures=[Figure(str(tmp_path / "text.png"), "c", "a")]))
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(DermaganError, match=r"report\.html: cannot be written"):
        make(tmp_path / "missing", Section("S"))
