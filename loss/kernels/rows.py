"""The formulas of :mod:`.cells` as loops over the cells of a row on the CPU, with their loads and stores."""

from . import simd
from .cells import formulas
from .simd import row_loop

cell = formulas(simd)

# ----------------------------------------------------------------------- forward: costs, V and q, V_dot and q_dot


@row_loop
def fill(rows, at, numbers):
    """Write one number."""
    rows[0].store(at[0], numbers[0])


@row_loop
def square_differences(rows, at, numbers):
    """Cost = cost of other variables + scale * (x - y)**2; float64 keeps the digits of series far from zero."""
    x, y, others, cost = rows
    difference = x.load(at[0]).double() - y.load(at[1]).double()
    cost.store(at[2], others.load(at[2]) + difference * difference * numbers[0])


@row_loop
def add_omega(rows, at, numbers):
    """Cost += scale * Omega (the tangled variant, Eq. 5)."""
    omega, cost = rows
    cost.store(at[1], cost.load(at[1]) + omega.load(at[0]) * numbers[0])


@row_loop
def blank(rows, at, numbers):
    """Write zeros into each of the five parts of the table of weights."""
    (T,) = rows
    for offset in at:
        T.store(offset, numbers[0])


@row_loop
def soft_minimum(rows, at, numbers):
    """(input) cost and V of the predecessors, (output) V and q: Eq. 2."""
    V, cost, T = rows
    here, left, diagonal, up, at_cost, *at_q = at
    value, q_left, q_up, q_diagonal = cell.softmin(V.load(left), V.load(up), V.load(diagonal), T.number)
    for offset, q in zip(at_q, (q_left, q_diagonal, q_up), strict=True):
        T.store(offset, q)
    V.store(here, cost.load(at_cost) + value)


@row_loop
def dual_part(rows, at, numbers):
    """(input) Omega, q and V_dot of the predecessors, (output) V_dot and q_dot: Eq. 4."""
    V_dot, omega, T = rows
    here, left, diagonal, up, at_omega, at_left, at_diagonal, at_up, at_dot_left, at_dot_up = at
    q = T.load(at_left), T.load(at_up), T.load(at_diagonal)
    before = V_dot.load(left), V_dot.load(up), V_dot.load(diagonal)
    value, q_dot_left, q_dot_up = cell.tangent(omega.load(at_omega), *before, *q, T.number(numbers[0]), T.number)
    V_dot.store(here, value)
    T.store(at_dot_left, q_dot_left)
    T.store(at_dot_up, q_dot_up)


# ----------------------------------------------------------------------- backward: E, E_dot and the series


@row_loop
def pull(rows, at, numbers):
    """(input) q and E of the successors, (output) E of a row, from the row after it and the one after that.

    ``mass`` is E divided by the sum of the cell's own weights, which is what the row will send back itself.
    """
    T, mass, E = rows
    here, in_row, right, below, beyond, at_left, at_up, at_diagonal, own_left, own_diagonal, own_up = at
    q = T.load(at_left), T.load(at_up), T.load(at_diagonal)
    total = cell.adjoint(*q, mass.load(right), mass.load(below), mass.load(beyond))
    correction = cell.correction(T.load(own_left), T.load(own_up), T.load(own_diagonal))
    E.store(in_row, total)
    mass.store(here, total * correction)


@row_loop
def pull_dual(rows, at, numbers):
    """(input) also q_dot and E_dot of the successors, (output) E and E_dot."""
    T, mass, E, mass_dot, E_dot = rows
    here, in_row, right, below, beyond, at_left, at_up, at_diagonal, own_left, own_diagonal, own_up = at[:11]
    q, q_dot = (T.load(at_left), T.load(at_up), T.load(at_diagonal)), [T.load(offset) for offset in at[11:]]
    of_E, of_E_dot = ([each.load(a) for a in (right, below, beyond)] for each in (mass, mass_dot))
    turned, total = cell.adjoint_dot(*q_dot, *of_E), cell.adjoint(*q, *of_E)
    correction = cell.correction(T.load(own_left), T.load(own_up), T.load(own_diagonal))
    total_dot = cell.adjoint(*q, *of_E_dot) + turned
    E.store(in_row, total)
    E_dot.store(in_row, total_dot)
    mass.store(here, total * correction)
    mass_dot.store(here, total_dot * correction)


@row_loop
def add_to_series(rows, at, numbers):
    """Chain E, and E_dot where it is given, through Delta = (x - y)**2: (output) sums += E * (x - y)."""
    x, y, *terms = rows
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    for E, sums in zip(terms[::2], terms[1::2], strict=True):
        sums.store(to, sums.load(to) + E.load(here) * difference)
