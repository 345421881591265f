"""Heat maps too large for a table are pictures of a pixel a cell, and a page of many domains stays small."""

import base64
import struct
import zlib

from test_page import Page
from transfer_outcomes import make_pretrained

from clray.report import tables
from clray.report.heat import LARGEST_TABLE, Cell, Head, picture
from clray.report.page import render
from clray.report.view import View

HEADS = [Head(name, name, "red") for name in ("a", "b")]


def cell(shade, hue="", taught=False, ahead=False):
    return Cell("x", shade, taught, ahead, "title", hue)


def alphas(mask):
    """Width, height and opacities of a PNG of grey and alpha, unfiltered."""
    content = base64.b64decode(mask.partition(",")[2])
    width, height, depth, kind = struct.unpack(">IIBB", content[16:26])
    assert content.startswith(b"\x89PNG") and (depth, kind) == (8, 4)
    start = content.index(b"IDAT")
    [size] = struct.unpack(">I", content[start - 4 : start])
    lines = zlib.decompress(content[start + 4 : start + 4 + size])
    return width, height, [list(lines[1 + n * (1 + 2 * width) :][: 2 * width][1::2]) for n in range(height)]


def test_a_small_map_is_a_table():
    assert picture(HEADS, [(1, "r", [cell(1.0), None])], LARGEST_TABLE) is None


def test_a_pixel_has_the_opacity_of_its_cell_by_hand():
    """0.04 + 0.96 * 0.5 = 0.52, of 255: 133; with 0.45 where it is not taught yet: 0.04 + 0.432 = 0.472: 120."""
    rows = [
        (1, "first", [cell(0.5, taught=True), cell(1.0, ahead=True)]),
        (2, "second", [cell(0.0, "worse"), cell(None)]),
        (3, "third", [None, cell(1.0, "worse")]),
    ]
    found = picture(HEADS, rows, LARGEST_TABLE + 1)
    assert (found.width, found.height, found.outlines) == (2, 3, "M0 0h1v1h-1z")
    assert [(hue, alphas(mask)) for hue, mask in found.layers] == [
        ("", (2, 3, [[133, 120], [0, 0], [0, 0]])),
        ("worse", (2, 3, [[0, 0], [10, 0], [0, 255]])),
    ]
    assert [(name.text, name.place) for name in found.across] == [("a", 25.0), ("b", 75.0)]
    assert [name.text for name in found.down] == ["1 first", "2 second", "3 third"]
    assert found.notes == ["paler: not taught yet", "grey: not measured"]


def test_a_page_of_159_domains_is_small():
    outcome = make_pretrained(tuple(f"domain-{n:03d}" for n in range(159)), controls=())
    text = render(outcome)
    Page(text)
    assert text.count('class="pixels"') == 3 and '<table class="heat' not in text.split('id="probes"')[0]
    assert text.count('<table class="heat') == 2  # of probes, one column each
    assert len(text) < 3e6
    assert "the other 135" in text and "img-src data:" in text


def test_many_shares_of_a_mixture_are_the_largest_and_the_rest():
    outcome = make_pretrained(tuple(f"domain-{n:03d}" for n in range(80)), controls=())
    [(_, mixtures)] = tables.mixtures(View.of(outcome))
    last = mixtures[-1]
    assert len(last.shares) == 7 and last.shares[-1].stage == "74 other stages"
    assert 99.5 < sum(share.percent for share in last.shares) < 100.5
    [(_, few)] = tables.mixtures(View.of(make_pretrained(controls=())))
    assert len(few[-1].shares) == 12
