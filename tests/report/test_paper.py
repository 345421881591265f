"""The benchmark's tables for a paper: golden CSV and LaTeX."""

from __future__ import annotations

import csv
import io

import pytest

from clray.evaluation.transfer import Domain, Transfer
from clray.report.paper import Run, domains_csv, domains_latex, escaped, orders_csv, orders_latex


def domain(task: str, learned: int, scores: tuple[float | None, ...], dapt: float | None = None) -> Domain:
    return Domain(task=task, stage=task, learned=learned, scores=scores, dapt=dapt)


@pytest.fixture
def transfer() -> Transfer:
    """Two domains; the second, whose name is hard on both formats, has no expert and was not measured at its stage."""
    return Transfer(
        metric="bits_per_byte",
        domains=(domain("law", 1, (2.0, 1.0, 1.125), 1.25), domain('R&D, "50%"', 2, (1.5, 1.6, None))),
    )


def run(base: str, order: str, shift: float, dapt: float | None = 1.0) -> Run:
    """One domain at zero-shot 2 and own stage 1 + shift, kept, and a second without an expert a whole bit above."""
    first = domain("a", 1, (2.0, 1 + shift, 1 + shift), dapt)
    second = domain("b", 2, (3.0, 3.0, 2 + shift))
    return Run(base, order, Transfer(metric="bits_per_byte", domains=(first, second)))


def test_the_table_of_domains_as_csv(transfer: Transfer) -> None:
    assert domains_csv(transfer) == (
        "number,stage,domain,zs,dapt,cpt,lc,fg\n"
        "1,law,law,2,1.25,1,1.125,0.125\n"
        '2,"R&D, ""50%""","R&D, ""50%""",1.5,,,,\n'
    )


def test_the_table_of_domains_as_latex(transfer: Transfer) -> None:
    assert domains_latex(transfer) == (
        "% bits per byte, lower is better; CPT below DAPT on 1 of 1 domains\n"
        r"\begin{tabular}{rlrrrrr}" "\n"
        r"\toprule" "\n"
        r"Stage & Domain & ZS & DAPT & CPT & LC & FG \\" "\n"
        r"\midrule" "\n"
        r"1 & law & 2.000 & 1.250 & 1.000 & 1.125 & $+0.125$ \\" "\n"
        r'2 & R\&D, "50\%" & 1.500 & -- & -- & -- & -- \\' "\n"
        r"\midrule" "\n"
        r"& Median & 1.750 & 1.250 & 1.000 & 1.125 & $+0.125$ \\" "\n"
        r"& Lower quartile & 1.625 & 1.250 & 1.000 & 1.125 & $+0.125$ \\" "\n"
        r"& Upper quartile & 1.875 & 1.250 & 1.000 & 1.125 & $+0.125$ \\" "\n"
        r"\bottomrule" "\n"
        r"\end{tabular}" "\n"
    )  # fmt: skip


def test_sizes_and_orders_as_latex() -> None:
    """Seeds at CPT medians 1.5 and 1.7: mean 1.6, sample deviation 0.2 / sqrt 2 = 0.141. Bases stand together."""
    runs = [
        run("3M_a", "random", 0.0),
        run("33M", "similar", 0.0),
        run("3M_a", "random", 0.2),
        run("3M_a", "similar", 0.0),
    ]
    assert orders_latex(runs) == (
        "% bits per byte, lower is better; medians over domains, mean and sample standard deviation over seeds\n"
        "% DAPT over 1 of 2 domains: 3M_a, random\n"
        "% DAPT over 1 of 2 domains: 3M_a, similar\n"
        "% DAPT over 1 of 2 domains: 33M, similar\n"
        r"\begin{tabular}{llrrrrrr}" "\n"
        r"\toprule" "\n"
        r"Base & Order & Seeds & ZS & DAPT & CPT & LC & FG \\" "\n"
        r"\midrule" "\n"
        r"3M\_a & random & 2 & $2.500 \pm 0.000$ & $1.000 \pm 0.000$ & $1.600 \pm 0.141$ & $1.600 \pm 0.141$"
        r" & $0.000 \pm 0.000$ \\" "\n"
        r"& similar & 1 & 2.500 & 1.000 & 1.500 & 1.500 & 0.000 \\" "\n"
        r"\midrule" "\n"
        r"33M & similar & 1 & 2.500 & 1.000 & 1.500 & 1.500 & 0.000 \\" "\n"
        r"\bottomrule" "\n"
        r"\end{tabular}" "\n"
    )  # fmt: skip


def test_sizes_and_orders_as_csv() -> None:
    """Nothing is rounded away; no deviation with one seed; a median of none is empty over 0 domains."""
    text = orders_csv([run("3M", "random", 0.0), run("3M", "random", 0.2), run("33M", "random", 0.0, dapt=None)])
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["base"], first["order"], first["seeds"]) == ("3M", "random", "2")
    assert (first["cpt_mean"], first["cpt_sd"], first["cpt_domains"]) == ("1.6", "0.14142136", "2")
    assert (first["dapt_mean"], first["dapt_sd"], first["dapt_domains"]) == ("1", "0", "1")
    assert (second["seeds"], second["zs_mean"], second["zs_sd"]) == ("1", "2.5", "")
    assert (second["dapt_mean"], second["dapt_sd"], second["dapt_domains"]) == ("", "", "0")
    assert text.splitlines()[0].startswith("base,order,seeds,zs_mean,zs_sd,zs_domains,dapt_mean")


def test_forgetting_has_its_sign() -> None:
    gained = Transfer(metric="perplexity", domains=(domain("a", 1, (9.0, 8.0, 7.5)),))
    assert r"$-0.50$ \\" in domains_latex(gained)
    assert r"$-0.50 \pm 0.00$ \\" in orders_latex([Run("b", "o", gained)] * 2)


@pytest.mark.parametrize("runs", [[], [run("a", "o", 0.0), Run("a", "o", Transfer(metric="perplexity", domains=()))]])
def test_a_table_holds_one_unit(runs: list[Run]) -> None:
    with pytest.raises(ValueError, match="holds one unit of score, these have"):
        orders_csv(runs)


def test_latex_specials_are_written_out() -> None:
    r"""What is put in for one special is not escaped again, and a name cannot end a comment."""
    assert escaped("a_b\\c{d}~e^f $1 #2 <3>") == (
        r"a\_b\textbackslash{}c\{d\}\textasciitilde{}e\textasciicircum{}f \$1 \#2 \textless{}3\textgreater{}"
    )
    assert escaped("two\nlines") == "two lines"
    text = orders_latex([run("x\n\\input{secret}", "o", 0.0)])
    assert all(line.startswith("%") for line in text.splitlines() if "\\input" in line)
