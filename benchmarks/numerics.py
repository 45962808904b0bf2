"""How many digits the loss keeps, beside its peers: float32 against a truth in 80-bit long double.

    python -m benchmarks.numerics                      # ours, tslearn, pysdtw, ddtw if installed
    python -m benchmarks.numerics --original FOLDER    # and a clone of the released DILATE

The cases are those of tests/oracles/cases.py, the truth is that of tests/oracles/longdouble.py. Fills in the tables
of docs/numerics.md, whose text explains them, and writes results/numerics.csv, where the rows of contenders that are
not at hand stay as they are. Takes about two minutes.
"""

import math
import platform
import re
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import RESULTS, machine, parser, pipes, rows_of_others, write_csv
from benchmarks.contenders import peers, released_function
from loss import DilateLoss
from tests.oracles.cases import BY_FLOAT64, BY_INPUTS, CASES, Case
from tests.oracles.longdouble import PRECISE, Truth, dilate, nudged, relative_error

PAGE = Path(__file__).parent.parent / "docs" / "numerics.md"
TOLERANCE = 1e-5
QUANTITIES = ("shape_value", "shape_gradient", "temporal_value", "temporal_gradient")
ROUNDING, FLOAT64 = "inputs moved by half a unit", "the recursion in float64"

Terms = Callable[[Tensor, Tensor, float], tuple[Tensor, ...]]  # the shape term and, where there is one, the temporal


def contenders(original: Path | None) -> dict[str, Terms]:
    """The contenders that are there, by name."""
    found: dict[str, Terms] = {"ours": lambda x, y, gamma: DilateLoss(0.5, gamma).components(x, y)[1:]}
    for name, make in peers().items():
        found[name] = lambda x, y, gamma, make=make: (make(gamma)(x, y),)
    if original is not None:
        dilate_loss = released_function(original)
        found["released code"] = lambda x, y, gamma: dilate_loss(x, y, 0.5, gamma, "cpu")[1:]
    return found


class Result(NamedTuple):
    """Values of the terms that a contender has, and their gradients."""

    values: Sequence[np.ndarray]
    by_x: Sequence[np.ndarray]  # (N, d)
    by_y: Sequence[np.ndarray]  # (M, d)


def evaluated(terms: Terms, case: Case) -> Result:
    """The terms of one contender at one case."""
    x, y = (torch.from_numpy(s)[None].requires_grad_() for s in (case.x, case.y))
    found = terms(x, y, case.gamma)
    gradients = [[g[0].numpy() for g in torch.autograd.grad(term, (x, y), retain_graph=True)] for term in found]
    return Result([term.detach().numpy() for term in found], *zip(*gradients, strict=True))


def errors(found: Result | Truth, truth: Truth) -> dict[str, float]:
    """Errors by quantity; that of a gradient is of both series, relative to its largest entry."""
    by_quantity = {}
    for k, kind in enumerate(("shape", "temporal")[: len(found.values)]):
        gradients = (np.concatenate([of.by_x[k].ravel(), of.by_y[k].ravel()]) for of in (found, truth))
        by_quantity[f"{kind}_value"] = relative_error(found.values[k], truth.values[k])
        by_quantity[f"{kind}_gradient"] = relative_error(*gradients)
    return by_quantity


def compare(case: Case, found: dict[str, Terms]) -> tuple[dict[str, dict[str, float]], float]:
    """Errors by contender, what rounding leaves open among them, and the size of the temporal gradient."""
    truth = dilate(case.x, case.y, case.gamma)
    rounded = dilate(nudged(case.x, 0), nudged(case.y, 1), case.gamma)
    results = {ROUNDING: errors(rounded, truth)}
    with np.errstate(all="ignore"):
        results[FLOAT64] = errors(dilate(case.x, case.y, case.gamma, np.float64), truth)
    for name, terms in found.items():
        try:
            results[name] = errors(evaluated(terms, case), truth)
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            print(f"{name} fails at {case.name}: {error}")
            results[name] = {}
    return results, float(max(abs(truth.by_x[1]).max(), abs(truth.by_y[1]).max()))


# ----------------------------------------------------------------------- rows of the CSV


def row_of(case: Case, name: str, numbers: dict[str, float]) -> dict[str, str]:
    """A contender's row of one case, but for the machine."""
    where = {"case": case.name, "N": len(case.x), "M": len(case.y), "gamma": case.gamma, "contender": name}
    filled = {q: f"{numbers[q]:.2g}" if q in numbers else "" for q in QUANTITIES}
    return {k: str(v) for k, v in where.items()} | filled


# ----------------------------------------------------------------------- the page


def short(error: float | None) -> str:
    """A number of two digits, as 3.1e-7; NaN where there is one, and a dash where there is no number at all."""
    if error is None or not math.isfinite(error):
        return "–" if error is None else "NaN" if math.isnan(error) else "inf"
    digits, exponent = f"{error:.1e}".split("e")
    return "0" if error == 0 else f"{digits}e{int(exponent)}"


def gradient_table(results: list, names: list[str]) -> str:
    """A row for each case."""
    temporal = [n for n in names if n in ("ours", "released code")]
    head = ["case", "γ", *(f"shape: {n}" for n in names), "shape: open", *(f"temporal: {n}" for n in temporal)]
    head += ["temporal: open", "its size"]
    rows = []
    for case, by_contender, size in results:
        row = [case.name, f"{case.gamma:g}"]
        for kind, columns in (("shape", names), ("temporal", temporal)):
            row += [short(by_contender[n].get(f"{kind}_gradient")) for n in (*columns, ROUNDING)]
        rows.append([*row, short(size)])
    return pipes([head, *rows])


def value_table(results: list, names: list[str]) -> str:
    """The worst error of each contender's values, and where it is."""
    rows = [["", "term", "cases right to 1e-5", "worst error", "where"]]
    for name in names:
        for kind in ("shape", "temporal"):
            found = {(c.name, c.gamma): r[name].get(f"{kind}_value") for c, r, _ in results}
            found = {where: error for where, error in found.items() if error is not None}
            if found:
                worst = max(found, key=lambda where: math.inf if math.isnan(found[where]) else found[where])
                right = sum(error <= TOLERANCE for error in found.values())
                count = f"{right} of {len(found)}"
                rows.append([name, kind, count, short(found[worst]), f"{worst[0]}, γ = {worst[1]:g}"])
    return pipes(rows)


def miss_table(results: list) -> str:
    """Every error of ours beyond the tolerance."""
    rows = [
        [f"{case.name}, γ = {case.gamma:g}", quantity.replace("_", " "), *(short(r[n][quantity]) for n in names)]
        for names in [("ours", ROUNDING, FLOAT64)]
        for case, r, _ in results
        for quantity in QUANTITIES
        if not r["ours"][quantity] <= TOLERANCE
    ]
    return pipes([["case", "quantity", "ours", ROUNDING, FLOAT64], *rows]) if rows else "None."


def case_list(results: list) -> str:
    """The cases, in words."""
    words = dict.fromkeys((c.name, c.words, f"{len(c.x)} × {len(c.y)}") for c, _, _ in results)
    return pipes([("case", "what it is", "steps"), *words])


def fill_in(text: str, blocks: dict[str, str]) -> str:
    """Replace the text between ``<!-- name -->`` and ``<!-- end -->``."""
    for name, block in blocks.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, b=block: f"{m[1]}\n{b}\n\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{PAGE} must hold one block <!-- {name} --> ... <!-- end -->, but it holds {count}.")
    return text


def made_with(names: list[str]) -> str:
    """Machine and versions; a peer may change the number of threads, so this is asked for first."""
    packages = ("numpy", "numba", *(n for n in names if n in ("tslearn", "pysdtw", "ddtw")))
    return ", ".join([machine(), f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in packages)])


def main(arguments: list[str] | None = None) -> None:
    """Run, print, and write the page and the CSV."""
    command_line = parser(__doc__, original="optional")
    command_line.add_argument("--longest", type=int, default=10**6, metavar="STEPS", help="leave out longer cases")
    command_line.set_defaults(output=None)
    args = command_line.parse_args(arguments)
    if not PRECISE:
        raise SystemExit("numpy's long double has no more digits than a float64 on this system: there is no truth.")
    found, path = contenders(args.original), (args.output or RESULTS) / "numerics.csv"
    kept = rows_of_others(path, {ROUNDING, FLOAT64, *found})
    absent = dict.fromkeys(row["contender"] for row in kept)
    names, results, rows = [*found, *absent], [], []
    origin = made_with(list(found))
    print(origin)
    for case in (*CASES, BY_INPUTS, BY_FLOAT64):
        if len(case.x) > args.longest:
            continue
        by_contender, size = compare(case, found)
        rows += [row_of(case, name, numbers) | {"machine": origin} for name, numbers in by_contender.items()]
        for name in absent:
            where = row_of(case, name, {}).items()
            here = [row for row in kept if all(row[k] == v for k, v in where if v)]
            by_contender[name] = {q: float(row[q]) for row in here for q in QUANTITIES if row[q]}
            rows += here
        results.append((case, by_contender, size))
        print(
            f"{case.name}, gamma {case.gamma:g}: {', '.join(map(short, by_contender['ours'].values()))}", flush=True
        )
    earlier = "".join(
        f" The numbers of {name} are kept from an earlier run: "
        f"{', '.join(dict.fromkeys(row['machine'] for row in rows if row['contender'] == name))}."
        for name in absent
    )
    if absent:
        print(earlier.strip())
    blocks = {
        "made with": f"Made with {origin}.{earlier}",
        "gradients": gradient_table(results, names),
        "values": value_table(results, names),
        "misses": miss_table(results),
        "cases": case_list(results),
    }
    page = fill_in(PAGE.read_text(encoding="utf-8"), blocks)
    write_csv(path, rows)
    (args.output or PAGE.parent).joinpath("numerics.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
